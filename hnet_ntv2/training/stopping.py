"""When a run ends before its last step: signals, lost loaders, losses that are not finite, collapsed chunk ratios."""

import logging
import math
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L

from ..errors import HNetNTV2Error, TrainingStopped
from .checkpoints import CheckpointKeeper
from .module import PretrainingModule, StepCallback, StepReport

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A lost loader, in the sum of the ranks' signals; larger than any sum of signal numbers.
_LOST_LOADER = 1_000_000
# Start of torch's message, raised in its signal handler or where it waits for a batch.
_TORCH_LOST_LOADER = re.compile(r"DataLoader worker \(pid")
# What the main process meets instead if it is just fetching a tensor from the loader that dies: its socket closes a
# moment before the process is gone, and until then torch takes the loader for alive.
_BROKEN_OFF = (ConnectionError, EOFError)
_UNTIL_GONE = 1.0  # seconds to wait for the signal that tells of it


class SignalStop(StepCallback):
    """SIGTERM and SIGINT (Ctrl-C) finish the optimiser step, save and end the run; a second one ends it at once.

    The handler only notes the signal. The step in progress is finished with all its micro-batches. Its reduction tells
    all ranks whether any of them got a signal, so they stop after the same step.
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
        if self.received:  # the user cannot wait for the step: die of the signal
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over again: Lightning's handler, installed by now, would end the run inside a step."""
        self.install()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: PretrainingModule, *_: Any) -> None:
        """Give the signal to the module, whose reduction passes it to the other ranks."""
        pl_module.stop_signal = self.received

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Stop after this step if any rank was told to."""
        if report.stop_signal or (self.received and trainer.world_size == 1):
            self.stopped_by = self.received or signal.SIGTERM
            logger.warning("%s: stopping after step %d", signal.Signals(self.stopped_by).name, trainer.global_step)
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # no time for a validation


@dataclass(eq=False)
class LoaderWatch(StepCallback):
    """Saves and ends a run whose loader process was killed, most often since memory ran out.

    torch's handler of SIGCHLD raises wherever the main process is, even between two tensors of an update: such a state
    is worth nothing. This handler only notes the loss. If the batches of the step are there, the step is finished and
    all ranks save together. If not, torch raises where it waits for one, and a single process saves the state after
    its last finished step.

    Args:
        keeper: Saves the last state.
    """

    keeper: CheckpointKeeper

    def __post_init__(self) -> None:
        self.loss: str | None = None
        self.saved: Path | None = None
        self._before: Any = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Turn torch's error of a lost loader into one line.

        Raises:
            TrainingStopped: With the reason and the checkpoint.
        """
        try:
            yield
        except (RuntimeError, *_BROKEN_OFF) as error:
            if isinstance(error, HNetNTV2Error) or not self._is_loss(error):
                raise
            raise self._stopped(self.loss or str(error)) from error
        finally:
            if self._before is not None:
                signal.signal(signal.SIGCHLD, self._before)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wrap torch's handler, which was installed with the first loader."""
        before = signal.getsignal(signal.SIGCHLD)
        if callable(before):  # no handler without loader processes (data.num_workers=0)
            self._before = before
            signal.signal(signal.SIGCHLD, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        try:
            self._before(number, frame)
        except RuntimeError as error:
            if not self._is_loss(error):
                raise
            self.loss = str(error)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: PretrainingModule, *_: Any) -> None:
        """Give the loss to the module, whose reduction passes it to the other ranks."""
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
        """Save where no batch came any more, on one rank only: others are inside a step, and saving needs all."""
        if self._is_loss(exception) and trainer.world_size == 1:
            self.saved = self.keeper.save_between_steps(trainer)

    def _is_loss(self, error: BaseException) -> bool:
        if isinstance(error, _BROKEN_OFF):
            end = time.monotonic() + _UNTIL_GONE
            while self.loss is None and time.monotonic() < end:
                time.sleep(0.01)
            return self.loss is not None
        return isinstance(error, RuntimeError) and _TORCH_LOST_LOADER.match(str(error)) is not None

    def _stopped(self, reason: str) -> TrainingStopped:
        first = reason.strip().splitlines()[0].rstrip(". ")
        state = "nothing was saved" if self.saved is None else f"the state is in {self.saved}, --resume goes on from it"
        return TrainingStopped(
            f"a loader process ended from outside, most often since the machine ran out of memory ({first}); {state}. "
            "`-- data.num_workers=1` needs less memory"
        )


@dataclass(eq=False)
class CollapseGuard(StepCallback):
    """Ends a run whose loss is not finite or whose chunk ratio has collapsed, after a checkpoint.

    A ratio is collapsed when it, or the router's own share before cap and guard, stays under a third of its target or
    over three times it for ``patience`` consecutive steps.

    Args:
        targets: Target ratio per stage.
        patience: Steps; 0 never stops for a ratio.
        keeper: Saves the last state.
    """

    targets: Sequence[float]
    patience: int
    keeper: CheckpointKeeper

    def __post_init__(self) -> None:
        self.steps_off = [0] * len(self.targets)

    def state_dict(self) -> dict[str, Any]:
        return {"steps_off": list(self.steps_off)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps_off = list(state_dict["steps_off"])

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Save and raise if the run cannot go on.

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
            is_off = any(math.isfinite(each) and not target / 3 <= each <= target * 3 for each in values)
            self.steps_off[stage] = self.steps_off[stage] + 1 if is_off else 0
            if 0 < self.patience <= self.steps_off[stage]:
                return (
                    f"the chunk ratio of stage {stage + 1} has collapsed: {values[0]:.3f} achieved, {values[1]:.3f} by "
                    f"the router alone, target {target:g}, for {self.steps_off[stage]} steps "
                    "(callbacks.collapse_patience). Try a lower --learning-rate, and model.router_offset_rate above 0"
                )
        return None
