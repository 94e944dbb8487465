"""What a user sees and what the logs get while a run goes on."""

import logging
import math
import os
import time
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from .module import PretrainingModule, StepReport
from .step_callback import StepCallback

logger = logging.getLogger(__name__)


class MetricLog(StepCallback):
    """Sends each step's metrics, throughput and memory to the loggers, and each validation's report.

    Args:
        every: Optimiser steps between rows.
        validate_every: Optimiser steps between validations; None validates after the last step only.

    Attributes:
        validated_step: The step after which this process validated last; None if it has not.
    """

    def __init__(self, every: int, validate_every: int | None):
        self.every = every
        self.validate_every = validate_every
        self.bases_per_second = math.nan
        self.last_validation: dict[str, float] = {}
        self.last_step: dict[str, float] = {}
        self.validated_step: int | None = None
        self._clock = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"last_validation": self.last_validation, "last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_validation = state_dict["last_validation"]
        self.last_step = state_dict.get("last_step", {})  # checkpoints of version 0.1 do not have it
        self.bases_per_second = self.last_step.get("bases_per_second", math.nan)

    def is_due(self, step: int, max_steps: int) -> bool:
        """Whether a validation follows this step."""
        return step == max_steps or (self.validate_every is not None and step % self.validate_every == 0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._clock = time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """No validation inside an accumulation."""
        trainer.val_check_batch = NEVER

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Log the step, and let Lightning validate after it if it is time to."""
        now = time.monotonic()
        self.bases_per_second = report.metrics["bases"] / max(now - self._clock, 1e-9)
        self._clock = now
        step, is_last = trainer.global_step, trainer.global_step == module.max_steps
        self.last_step = {**report.metrics, "bases_per_second": self.bases_per_second, **memory_in_use()}
        if step % self.every == 0 or step == 1 or is_last or report.problem is not None:
            self._log(trainer, "train", self.last_step)
        if self.is_due(step, module.max_steps):  # Lightning validates after micro-batches whose number this divides
            trainer.val_check_batch = 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the report; the time that validation took is not training time."""
        assert isinstance(pl_module, PretrainingModule)
        self.last_validation = dict(pl_module.validation_report)
        self.validated_step = trainer.global_step
        self._log(trainer, "validation", self.last_validation)
        self._clock = time.monotonic()

    def _log(self, trainer: L.Trainer, part: str, metrics: dict[str, float]) -> None:
        named = {f"{part}/{name}": value for name, value in metrics.items()}
        for each in trainer.loggers:
            each.log_metrics(named, trainer.global_step)


# Stands for "no validation" where Lightning wants the number of micro-batches between validations.
NEVER = 2**62


class ProgressDisplay(StepCallback):
    """A progress bar on a terminal, else a plain log line every so many steps.

    Args:
        max_steps: Optimiser steps of the run.
        log: Where throughput and the last validation come from.
        bar: Whether a bar is wanted at all.
        every: Steps between plain lines.
        console: Where the bar goes; standard error if None.
    """

    def __init__(self, max_steps: int, log: MetricLog, bar: bool, every: int, console: Console | None = None):
        self.max_steps = max_steps
        self.metric_log = log
        self.every = every
        self.console = console or Console(stderr=True)
        self.wants_bar = bar and self.console.is_terminal
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the bar."""
        if trainer.is_global_zero and self.wants_bar:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self.console)
            self._progress.start()
            self._task = self._progress.add_task("starting", total=self.max_steps, completed=trainer.global_step)

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Move on by one step."""
        if not trainer.is_global_zero:
            return
        step, line = trainer.global_step, progress_line(report, self.metric_log.bases_per_second)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step, description=line)
        elif step % self.every == 0 or step in (1, self.max_steps):
            logger.info("step %d of %d: %s", step, self.max_steps, line)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what validation found."""
        assert isinstance(pl_module, PretrainingModule)
        if trainer.is_global_zero and not trainer.sanity_checking:
            logger.info("step %d: %s", trainer.global_step, validation_line(pl_module.validation_report))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar as it is."""
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the terminal back before the error is told."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def progress_line(report: StepReport, bases_per_second: float) -> str:
    """Loss, bits per base, achieved ratio per stage and throughput, on one line."""
    ratios = "/".join(f"{ratio:.3f}" for ratio in report.ratios)
    bits = report.metrics["bits"]
    return f"loss {report.loss:.4f}  bits/base {bits:.4f}  ratios {ratios}  {bases_per_second:,.0f} bases/s"


def validation_line(report: dict[str, float]) -> str:
    """The most important numbers of a validation report, on one line."""
    parts = [f"validation {report['bits']:.4f} bits/base, accuracy {report['accuracy']:.3f}"]
    names = (
        ("bits_non_repeat", "outside repeats"),
        ("bits_anchors_on", "with anchors"),
        ("bits_anchors_off", "without"),
    )
    parts += [f"{title} {report[name]:.4f}" for name, title in names if not math.isnan(report.get(name, math.nan))]
    if "mask_free/chunk_length_p50" in report:
        middle, high, most = (report[f"mask_free/chunk_length_{name}"] for name in ("p50", "p95", "max"))
        parts.append(f"chunks of {middle:.0f} bases (95 % up to {high:.0f}, longest {most:.0f})")
    return ", ".join(parts)


def memory_in_use() -> dict[str, float]:
    """Resident memory of this process and peak memory of its CUDA device, in MiB."""
    found = {}
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            found["memory_rss_mib"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        pass  # not Linux: this number is left out
    if torch.cuda.is_available():
        found["memory_cuda_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found
