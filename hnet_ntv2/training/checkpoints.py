"""Which checkpoints a run keeps: numbered ones, links to the last and the best; how a resumed run goes on from one."""

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from ..errors import CheckpointError
from ..storage import remove, sweep
from .checkpoint_format import explained
from .display import MetricLog
from .module import PretrainingModule, StepCallback, StepReport

logger = logging.getLogger(__name__)


LAST, BEST = "last.ckpt", "best.ckpt"
_WAY_OUT = "Free disk space, then --resume"
# Leftovers of killed writers of earlier versions of this package.
_OLD_LEFTOVERS = (".step=*.tmp", ".last.ckpt.*.tmp", ".best.ckpt.*.tmp", ".hf.*.tmp", ".writable.*")


@dataclass(eq=False)
class CheckpointKeeper(StepCallback):
    """Saves every ``every`` steps, at the end, and after each validation that is the best so far.

    ``step=000010.ckpt`` is a folder; ``last.ckpt`` and ``best.ckpt`` are links to such folders. A link moves only after
    the folder it will point to is complete, so that the last good checkpoint outlives a failing save.

    A checkpoint is saved before its step's validation, so that a validation that fails or is killed costs no training;
    a run that resumes from it validates first (``MissedValidation``).

    Args:
        folder: Where the checkpoints go.
        every: Optimiser steps between checkpoints.
        keep: Numbered checkpoints that are kept besides the linked ones.
        samples_per_step: Windows of the global batch, to note the position in the data.
        resumed_from: The checkpoint that the run goes on from.
    """

    folder: Path
    every: int
    keep: int
    samples_per_step: int
    resumed_from: Path | None = None

    def __post_init__(self) -> None:
        self.best_value = math.inf
        self.best_step: int | None = None
        # The last step that this process saved. A folder of the right name is not enough: a run that resumed from an
        # older step leaves folders of its former course.
        self._saved_step: int | None = None
        # Lightning's counters after the last finished step; inside a step they count micro-batches that are lost.
        self._counters: dict[str, Any] | None = None
        self._saves_between_steps = False

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value, self.best_step = state_dict["best_value"], state_dict["best_step"]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the counters of the checkpoint that the run goes on from."""
        self._counters = checkpoint["loops"]["fit_loop"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Inside a step, save the counters of the last finished one."""
        if self._saves_between_steps:
            checkpoint["loops"]["fit_loop"] = self._counters

    def on_train_start(self, trainer: L.Trainer, pl_module: PretrainingModule) -> None:
        """Link and save what a resumed run needs before its first step."""
        if self.resumed_from is None:
            return
        step = trainer.global_step
        if self.resumed_from.resolve() == self.path_of(step).resolve():
            self._saved_step = step
        if step == pl_module.max_steps:
            self.save_between_steps(trainer)  # no step follows that would save or link it here
        self._take_up_best(trainer)

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Save when it is time, when the run is over, or when it was asked to stop."""
        step = trainer.global_step
        self._counters = trainer.fit_loop.state_dict()
        if step % self.every == 0 or step == module.max_steps or trainer.should_stop:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: PretrainingModule) -> None:
        """Save and link the model if it is the best so far."""
        value = pl_module.validation_report.get("bits", math.nan)
        if trainer.sanity_checking or trainer.state.fn != "fit" or not value < self.best_value:
            return  # "not <": NaN is never the best
        self.best_value, self.best_step = value, trainer.global_step
        self.save_between_steps(trainer, BEST)
        self._prune(trainer)

    def save(self, trainer: L.Trainer, link: str = LAST) -> Path:
        """Save the present state and let ``link`` point to it. All ranks must call this.

        Raises:
            CheckpointError: It cannot be written.
        """
        path = self.path_of(trainer.global_step)
        datamodule: Any = getattr(trainer, "datamodule", None)
        if datamodule is not None:
            # The loader is batches ahead of the training: note where the next step begins.
            datamodule.set_position(trainer.global_step * self.samples_per_step)
        trainer.save_checkpoint(path, weights_only=False)
        self._saved_step = trainer.global_step
        self._link(trainer, link, path)
        self._prune(trainer)
        return path

    def save_between_steps(self, trainer: L.Trainer, link: str = LAST) -> Path | None:
        """Save the state after the last finished step, unless it is saved; None before the first step.

        All ranks must call this. Micro-batches of the step in progress are lost; a resumed run repeats them.
        """
        step = trainer.global_step
        if self._counters is None:
            return None
        if self._saved_step == step:
            self._link(trainer, link, self.path_of(step))
            return self.path_of(step)
        self._saves_between_steps = True
        try:
            return self.save(trainer, link)
        finally:
            self._saves_between_steps = False

    def path_of(self, step: int) -> Path:
        """Folder of the checkpoint after ``step`` optimiser steps."""
        return self.folder / f"step={step:06d}.ckpt"

    def _take_up_best(self, trainer: L.Trainer) -> None:
        """Link the checkpoint that was the best at the step that the run goes on from."""
        has_best = self.best_step is not None and self.path_of(self.best_step).is_dir()
        if trainer.strategy.broadcast(has_best):  # all ranks save together, so they must know the same best
            assert self.best_step is not None
            self._link(trainer, BEST, self.path_of(self.best_step))
            return
        if self.best_step is not None:
            logger.warning(
                "the best checkpoint so far, of step %d, is not in %s any more: the next validation is the best again",
                self.best_step,
                self.folder,
            )
        self.best_value, self.best_step = math.inf, None
        if trainer.is_global_zero:
            remove(self.folder / BEST)
        trainer.strategy.barrier("best checkpoint")

    def _link(self, trainer: L.Trainer, name: str, path: Path) -> None:
        if trainer.is_global_zero:
            temporary = self.folder / f"{name}.partial"  # storage.sweep deletes such names
            with explained(f"{self.folder / name} could not be moved to {path.name}", _WAY_OUT):
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(path.name)
                temporary.replace(self.folder / name)  # in one system call: there is always a link
        trainer.strategy.barrier("checkpoint link")

    def _prune(self, trainer: L.Trainer) -> None:
        """Delete the numbered checkpoints that are neither linked nor among the ``keep`` last."""
        if not trainer.is_global_zero:
            return
        linked = {os.readlink(self.folder / name) for name in (LAST, BEST) if (self.folder / name).is_symlink()}
        others = [path for path in numbered_checkpoints(self.folder) if path.name not in linked]
        # Later ones: this run resumed from an older checkpoint, they are of its former course.
        later = [path for path in others if step_of(path) > trainer.global_step]
        earlier = others[: len(others) - len(later)]
        for path in [*earlier[: max(0, len(earlier) - self.keep)], *later]:
            with explained(f"old checkpoint {path} could not be deleted", _WAY_OUT):
                remove(path)


def numbered_checkpoints(folder: Path) -> list[Path]:
    """The numbered checkpoints in a folder, oldest step first."""
    return sorted((path for path in folder.glob("step=*.ckpt") if path.stem[5:].isdecimal()), key=step_of)


def step_of(path: Path) -> int:
    """Optimiser steps of a numbered checkpoint."""
    return int(path.stem.removeprefix("step="))


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
        # The folder of a run or of its checkpoints will do, too.
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


def holds_run(folder: Path) -> bool:
    """Whether a folder holds any checkpoint, linked or not."""
    return (folder / LAST).is_symlink() or bool(numbered_checkpoints(folder))


def sweep_checkpoints(folder: Path) -> None:
    """Delete what killed writers left; the caller holds the lock of the run's folder."""
    for path in [path for pattern in _OLD_LEFTOVERS for path in folder.glob(pattern)]:
        remove(path)
    sweep(folder)


def clear_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of an earlier run."""
    for path in [folder / LAST, folder / BEST, *numbered_checkpoints(folder)]:
        remove(path)


@dataclass(eq=False)
class MissedValidation(StepCallback):
    """Validates before the first step where the step of the resumed checkpoint asks for a validation.

    A checkpoint is saved before the validation of its step. It lacks the row of the log, the best value and the link to
    the best checkpoint; validating again makes all three. A run that had finished its last step ends after that.

    Args:
        metric_log: Knows which steps are validated.
    """

    metric_log: MetricLog

    def on_train_start(self, trainer: L.Trainer, pl_module: PretrainingModule) -> None:
        """Validate as Lightning does between steps."""
        step = trainer.global_step
        if step and self.metric_log.is_due(step, pl_module.max_steps):
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False  # from its first batch, whatever the checkpoint says of an earlier validation
            trainer.validating = True
            loop.run()
            trainer.training = True
        if step == pl_module.max_steps:
            trainer.should_stop = True
