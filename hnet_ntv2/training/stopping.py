"""When a run ends before its last step: signals, lost loaders, losses that are not finite, collapsed chunk ratios."""

import logging
import math
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch

from ..errors import HNetNTV2Error, TrainingStopped
from .checkpoints import CheckpointKeeper
from .module import PretrainingModule, StepCallback, StepReport

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Stands for a lost loader in the sum of the ranks' signals; no sum of signal numbers comes near.
_LOST_LOADER = 1_000_000
# How torch tells it: from its signal handler, or when it waits for a batch in vain.
_TORCH_LOST_LOADER = re.compile(r"DataLoader worker \(pid")


class SignalStop(StepCallback):
    """SIGTERM and SIGINT (Ctrl-C) finish the optimiser step, save and end the run; a second one ends it at once.

    The signal is only noted when it comes. The step in progress, an accumulation included, is finished; all ranks learn
    in its reduction whether any of them was told to stop, so that they stop after the same step.
    """

    def __init__(self) -> None:
        self.received = 0
        self.stopped_by = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Catch the signals while the run lasts. Loader processes started meanwhile inherit this, and live on."""
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self.install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals over."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning has put its own handler in front by now, which would end the run inside an accumulation."""
        self.install()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hand the signal to the module, which shares it with the other ranks."""
        assert isinstance(pl_module, PretrainingModule)
        pl_module.stop_signal = self.received

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Stop after this step if any rank was told to."""
        if report.stop_signal or (self.received and trainer.world_size == 1):
            self.stopped_by = self.received or signal.SIGTERM
            logger.warning("%s: stopping after step %d", signal.Signals(self.stopped_by).name, trainer.global_step)
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # no time for a validation


class LoaderWatch(StepCallback):
    """Ends a run whose loader process was killed (by the system, out of memory), after a checkpoint.

    torch raises in its handler of SIGCHLD, wherever the main process is: between two tensors of an update too, after
    which there is nothing to save. Here the loss is only noted; the step in progress is finished if its batches are
    there, and all ranks save together. If they are not, torch raises where it waits for one: a single process saves
    what its last finished step left.

    Args:
        keeper: Saves the last state.
    """

    def __init__(self, keeper: CheckpointKeeper):
        self.keeper = keeper
        self.loss: str | None = None
        self.saved: Path | None = None
        self._before: Any = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Tell of a lost loader in one line.

        Raises:
            TrainingStopped: With the reason and the checkpoint.
        """
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, HNetNTV2Error) or not self._is_loss(error):
                raise
            raise self._stopped(self.loss or str(error)) from error
        finally:
            if self._before is not None:
                signal.signal(signal.SIGCHLD, self._before)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put a handler in front of torch's, which it installs with its first loader."""
        before = signal.getsignal(signal.SIGCHLD)
        if callable(before):
            self._before = before
            signal.signal(signal.SIGCHLD, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        try:
            self._before(number, frame)
        except RuntimeError as error:
            if not self._is_loss(error):
                raise
            self.loss = str(error)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Hand the loss to the module, which shares it with the other ranks."""
        assert isinstance(pl_module, PretrainingModule)
        if self.loss is not None:
            pl_module.stop_signal = _LOST_LOADER

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Save and stop if any rank lost a loader.

        Raises:
            TrainingStopped: With the reason and the checkpoint.
        """
        if report.stop_signal >= _LOST_LOADER:
            self.saved = self.keeper.save(trainer)
            raise self._stopped(self.loss or "another rank lost a DataLoader worker")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save where no batch came any more. Other ranks are inside a step, so that they could not take part."""
        if self._is_loss(exception) and trainer.world_size == 1:
            self.saved = self.keeper.save_between_steps(trainer)

    def _is_loss(self, error: BaseException) -> bool:
        return isinstance(error, RuntimeError) and _TORCH_LOST_LOADER.match(str(error)) is not None

    def _stopped(self, reason: str) -> TrainingStopped:
        first = reason.strip().splitlines()[0].rstrip(". ")
        state = "nothing was saved" if self.saved is None else f"the state is in {self.saved}, --resume goes on from it"
        return TrainingStopped(
            f"a loader process ended from outside, most often since the machine ran out of memory ({first}); {state}. "
            "`-- data.num_workers=1` needs less memory"
        )


class CollapseGuard(StepCallback):
    """Ends a run whose loss is not finite or whose chunk ratio has collapsed, after a checkpoint.

    A ratio is collapsed when it, or the router's own share before cap and guard, stays under target / factor or over
    target x factor for ``patience`` consecutive steps.

    Args:
        targets: Target ratio per stage.
        patience: Steps; 0 never stops for a ratio.
        factor: How far off is collapsed.
        keeper: Saves the last state.
    """

    def __init__(self, targets: Sequence[float], patience: int, factor: float, keeper: CheckpointKeeper):
        self.targets = tuple(targets)
        self.patience = patience
        self.factor = factor
        self.keeper = keeper
        self.steps_off = [0] * len(self.targets)

    def state_dict(self) -> dict[str, Any]:
        return {"steps_off": list(self.steps_off)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps_off = list(state_dict["steps_off"])

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Look at the step; save and raise if the run cannot go on.

        Raises:
            TrainingStopped: With the reason and the checkpoint.
        """
        reason = self.problem_of(report)
        if reason is not None:
            path = self.keeper.save(trainer)
            raise TrainingStopped(f"training stopped at step {trainer.global_step}: {reason}. The state is in {path}")

    def problem_of(self, report: StepReport) -> str | None:
        """Why the run cannot go on after this step; None if it can."""
        if report.problem is not None:
            return (
                f"{report.problem}; that update was not applied, the weights are those of the step before. Try a lower "
                "--learning-rate, more warm-up, or --precision 32"
            )
        for stage, target in enumerate(self.targets):
            values = (report.ratios[stage], report.router_shares[stage])
            self.steps_off[stage] = self.steps_off[stage] + 1 if self._is_off(values, target) else 0
            if 0 < self.patience <= self.steps_off[stage]:
                return (
                    f"the chunk ratio of stage {stage + 1} has collapsed: {values[0]:.3f} achieved, {values[1]:.3f} by "
                    f"the router alone, target {target:g}, for {self.steps_off[stage]} steps "
                    "(callbacks.collapse_patience). Try a lower --learning-rate, and model.router_offset_rate above 0"
                )
        return None

    def _is_off(self, values: Sequence[float], target: float) -> bool:
        low, high = target / self.factor, target * self.factor
        return any(math.isfinite(value) and not low <= value <= high for value in values)
