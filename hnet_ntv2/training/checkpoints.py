"""Which checkpoints a run keeps: numbered ones, and links to the last and to the best."""

import logging
import math
import os
import re
from pathlib import Path
from typing import Any

import lightning as L

from ..errors import CheckpointError
from .checkpoint_io import remove_checkpoint
from .module import PretrainingModule, StepReport
from .step_callback import StepCallback

logger = logging.getLogger(__name__)

LAST, BEST = "last.ckpt", "best.ckpt"
_NUMBERED = re.compile(r"step=(\d+)\.ckpt")


class CheckpointKeeper(StepCallback):
    """Saves every so many steps, at the end, and wherever validation is the best so far.

    ``step=000010.ckpt`` is a folder; ``last.ckpt`` and ``best.ckpt`` are links to such folders. A link moves only after
    the folder it will point to is complete, so that the last good checkpoint outlives a failing save.

    Args:
        folder: Where the checkpoints go.
        every: Optimiser steps between checkpoints.
        keep: Numbered checkpoints that are kept besides the linked ones.
        samples_per_step: Windows of the global batch, to note the position in the data.
        monitor: The validation metric whose least value is best.
    """

    def __init__(self, folder: Path, every: int, keep: int, samples_per_step: int, monitor: str = "bits"):
        self.folder = folder
        self.every = every
        self.keep = keep
        self.samples_per_step = samples_per_step
        self.monitor = monitor
        self.best_value = math.inf
        self.best_step: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value, self.best_step = state_dict["best_value"], state_dict["best_step"]

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Save when it is time, when the run is over, or when it was asked to stop."""
        step = trainer.global_step
        if step % self.every == 0 or step == module.max_steps or trainer.should_stop:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the best model so far."""
        assert isinstance(pl_module, PretrainingModule)
        value = pl_module.validation_report.get(self.monitor, math.nan)
        if trainer.sanity_checking or trainer.state.fn != "fit" or not value < self.best_value:
            return
        self.best_value, self.best_step = value, trainer.global_step
        path = self.path_of(trainer.global_step)
        if not path.is_dir():
            self.save(trainer, link=None)
        self._link(trainer, BEST, path)
        self._prune(trainer)

    def save(self, trainer: L.Trainer, link: str | None = LAST) -> Path:
        """Save the present state and let ``link`` point to it. All ranks must call this."""
        path = self.path_of(trainer.global_step)
        datamodule: Any = getattr(trainer, "datamodule", None)
        if datamodule is not None:
            datamodule.set_position(trainer.global_step * self.samples_per_step)
        trainer.save_checkpoint(path, weights_only=False)
        if link is not None:
            self._link(trainer, link, path)
        self._prune(trainer)
        return path

    def path_of(self, step: int) -> Path:
        """Folder of the checkpoint after ``step`` optimiser steps."""
        return self.folder / f"step={step:06d}.ckpt"

    def _link(self, trainer: L.Trainer, name: str, path: Path) -> None:
        if trainer.is_global_zero:
            temporary = self.folder / f".{name}.{os.getpid()}.tmp"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(path.name)
            os.replace(temporary, self.folder / name)
        trainer.strategy.barrier("checkpoint link")

    def _prune(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            linked = {os.readlink(self.folder / name) for name in (LAST, BEST) if (self.folder / name).is_symlink()}
            others = [path for path in numbered_checkpoints(self.folder) if path.name not in linked]
            for path in others[: max(0, len(others) - self.keep)]:
                remove_checkpoint(path)


def numbered_checkpoints(folder: Path) -> list[Path]:
    """The numbered checkpoints in a folder, oldest step first."""
    found = [(int(match[1]), path) for path in folder.glob("step=*.ckpt") if (match := _NUMBERED.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def find_checkpoint(resume: str, folder: Path) -> Path:
    """The checkpoint that ``--resume`` means.

    Args:
        resume: "last" for the last one of ``folder``, else a path.
        folder: The checkpoints of the output directory.

    Raises:
        CheckpointError: There is none.
    """
    if resume != "last":
        path = Path(resume)
        if not path.exists():
            raise CheckpointError(f"--resume {path}: there is no checkpoint of that name")
        # The name of a whole output or checkpoint folder is good enough.
        inside = [path / LAST, path / "checkpoints" / LAST]
        return next((candidate for candidate in inside if candidate.exists()), path)
    if (folder / LAST).exists():
        return folder / LAST
    numbered = numbered_checkpoints(folder)
    if not numbered:
        raise CheckpointError(
            f"--resume: there is no checkpoint in {folder}; name one (--resume PATH), point --output-dir at the run to "
            "go on with, or leave --resume out to start anew"
        )
    return numbered[-1]


def clear_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of an earlier run."""
    for path in [folder / LAST, folder / BEST, *numbered_checkpoints(folder)]:
        remove_checkpoint(path)
