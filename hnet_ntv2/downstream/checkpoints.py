"""Checkpoints that Trainer left: the newest complete one, and whether early stopping had its last word there."""

from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..storage import remove


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint that Trainer left in a folder; incomplete ones are removed."""
    found = sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    while found and _state_of(found[-1]) is None:
        remove(found.pop())
    return str(found[-1]) if found else None


def _state_of(checkpoint: Path) -> TrainerState | None:
    """Trainer's state in a checkpoint, the last file that it writes there; None where that is missing or cut."""
    try:
        return TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    except (OSError, ValueError, TypeError):
        return None


def epochs_if_stopped(checkpoint: str | None, patience: int | None) -> int | None:
    """Epochs done, if early stopping had its last word at a checkpoint."""
    state = None if checkpoint is None else _state_of(Path(checkpoint))
    if state is None or patience is None:
        return None
    stopping: Any = (state.stateful_callbacks or {}).get(EarlyStoppingCallback.__name__)  # pyright: ignore[reportAttributeAccessIssue]
    counted = 0 if stopping is None else stopping["attributes"]["early_stopping_patience_counter"]
    return round(state.epoch or 0) if counted >= patience else None
