"""What a user sees of a run and what its logs get: progress, CSV files, TensorBoard, Weights & Biases."""

import csv
import dataclasses
import logging
import math
import os
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import ConfigError
from ..measuring import read_history
from ..storage import open_text
from .module import PretrainingModule, StepCallback, StepReport
from .settings import LoggerSettings, PretrainSettings

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class MetricLog(StepCallback):
    """Logs metrics, bases per second and MiB of memory of each step, and the report of each validation.

    Args:
        every: Optimiser steps between rows.
        validate_every: Optimiser steps between validations; None validates after the last step only.

    Attributes:
        validated_step: The step after which this process validated last; None if it has not.
    """

    every: int
    validate_every: int | None

    def __post_init__(self) -> None:
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

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Lightning validates between micro-batches; off until the step is complete."""
        trainer.val_check_batch = NEVER

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Log the step; start a validation after it if one is due."""
        now = time.monotonic()
        # max: a clock of low resolution can stand still
        self.bases_per_second = report.metrics["bases"] / max(now - self._clock, 1e-9)
        self._clock = now
        step, is_last = trainer.global_step, trainer.global_step == module.max_steps
        self.last_step = {**report.metrics, "bases_per_second": self.bases_per_second, **memory_in_use()}
        if step % self.every == 0 or step == 1 or is_last or report.problem is not None:
            self._log(trainer, "train", self.last_step)
        if self.is_due(step, module.max_steps):  # Lightning validates after micro-batches whose number this divides
            trainer.val_check_batch = 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: PretrainingModule) -> None:
        """Log the report."""
        self.last_validation = dict(pl_module.validation_report)
        self.validated_step = trainer.global_step
        self._log(trainer, "validation", self.last_validation)
        self._clock = time.monotonic()  # validation does not count as training time

    def _log(self, trainer: L.Trainer, part: str, metrics: dict[str, float]) -> None:
        named = {f"{part}/{name}": value for name, value in metrics.items()}
        for each in trainer.loggers:
            each.log_metrics(named, trainer.global_step)


# "No validation", where Lightning wants a number of micro-batches between validations.
NEVER = 2**62


@dataclass(eq=False)
class ProgressDisplay(StepCallback):
    """A progress bar on a terminal, else a plain log line every so many steps.

    Args:
        max_steps: Optimiser steps of the run.
        metric_log: Where throughput and the last validation come from.
        bar: Whether a bar is wanted at all.
        every: Steps between plain lines.
    """

    max_steps: int
    metric_log: MetricLog
    bar: bool
    every: int

    def __post_init__(self) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        console = Console(stderr=True)
        self.progress = Progress(*columns, console=console, disable=not (self.bar and console.is_terminal))
        self.task = self.progress.add_task("starting", total=self.max_steps)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the bar."""
        self.progress.update(self.task, completed=trainer.global_step)
        if trainer.is_global_zero:
            self.progress.start()

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Advance the bar, or log a line."""
        step, line = trainer.global_step, progress_line(report, self.metric_log.bases_per_second)
        self.progress.update(self.task, completed=step, description=line)
        is_due = step % self.every == 0 or step in (1, self.max_steps)
        if self.progress.disable and is_due and trainer.is_global_zero:
            logger.info("step %d of %d: %s", step, self.max_steps, line)

    def on_validation_end(self, trainer: L.Trainer, pl_module: PretrainingModule) -> None:
        """Log the most important numbers of the report."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            logger.info("step %d: %s", trainer.global_step, validation_line(pl_module.validation_report))

    def on_train_end(self, *_: Any) -> None:
        """Stop drawing, before an error is printed too; the bar stays on the screen."""
        self.progress.stop()

    def on_exception(self, *_: Any) -> None:
        """Stop drawing."""
        self.on_train_end()


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


TRAIN, VALIDATION = "train", "validation"


class HistoryLogger(Logger):
    """Writes ``train.csv`` and ``validation.csv``, one row per logged step, flushed at once.

    A step that is logged again (a resumed run validates the step of its checkpoint again) replaces its row.

    Names are ``train/...`` and ``validation/...``; the part in front of the first slash chooses the file.

    Args:
        folder: Where the files go.
        resume_step: Rows after this step are dropped (they will be written again); None starts new files.
    """

    name: Any = "history"
    version: Any = ""

    def __init__(self, folder: Path, resume_step: int | None = None):
        super().__init__()
        self.folder = folder
        self.rows: dict[str, list[dict[str, float]]] = {TRAIN: [], VALIDATION: []}
        self._columns: dict[str, list[str]] = {TRAIN: [], VALIDATION: []}
        for part in (TRAIN, VALIDATION):
            if resume_step is not None:
                self.rows[part] = [row for row in read_history(self.path(part)) if row["step"] <= resume_step]
            self._rewrite(part)

    def path(self, part: str) -> Path:
        """File of one part, "train" or "validation"."""
        return self.folder / f"{part}.csv"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row to each part that has values."""
        for part in (TRAIN, VALIDATION):
            values = {
                name.removeprefix(f"{part}/"): value for name, value in metrics.items() if name.startswith(f"{part}/")
            }
            if values:
                self._append(part, {"step": float(step or 0), **values})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings are written as a file of their own."""

    def _append(self, part: str, row: dict[str, float]) -> None:
        rows = self.rows[part]
        # A later row with known columns is appended; all else rewrites the file.
        is_later = not rows or rows[-1]["step"] < row["step"]
        if not is_later:
            rows[:] = [earlier for earlier in rows if earlier["step"] < row["step"]]
        rows.append(row)
        if is_later and set(row) <= set(self._columns[part]) and self.path(part).is_file():
            try:
                with self.path(part).open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self._columns[part], restval="").writerow(_written(row))
            except OSError as error:
                raise ConfigError(f"{self.path(part)} cannot be written: {error.strerror}") from error
        else:
            self._rewrite(part)

    @rank_zero_only
    def _rewrite(self, part: str) -> None:
        self._columns[part] = list(dict.fromkeys(name for row in self.rows[part] for name in row))
        with open_text(self.path(part)) as file:
            if self._columns[part]:  # csv would write an empty header line
                writer = csv.DictWriter(file, self._columns[part], restval="")
                writer.writeheader()
                writer.writerows(map(_written, self.rows[part]))


class CarefulLogger(Logger):
    """Wraps a logger that a run can do without. Its first failure is logged and switches it off; the run goes on.

    Args:
        build: Makes the wrapped logger; a failure to make it counts too.
        title: Its name in the warning.
    """

    version: Any = ""

    def __init__(self, build: Callable[[], Logger | None], title: str):
        super().__init__()
        self.title = title
        self._inner: Logger | None = None
        self._inner = self._carefully(build)

    @property
    def name(self) -> str:
        return self.title

    @property
    def is_alive(self) -> bool:
        """Whether it still logs."""
        return self._inner is not None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log, as long as it works."""
        self._call("log_metrics", dict(metrics), step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log, as long as it works."""
        self._call("log_hyperparams", params, *args, **kwargs)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close, as long as it works."""
        self._call("finalize", status)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> None:
        if self._inner is not None:
            call = getattr(self._inner, method)
            self._carefully(lambda: call(*args, **kwargs))

    def _carefully(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # any: a logging service must not end a training of days
            self._inner = None
            cause = error.__cause__ or error  # TensorBoard's logger calls every failure a wrong type of value
            logger.warning(
                "%s failed and is switched off, training goes on: %s: %s", self.title, type(cause).__name__, cause
            )
            return None


@contextmanager
def without_threads_tracebacks() -> Iterator[None]:
    """Keep TensorBoard's writer thread from printing a traceback: its error comes up again in the next call of it."""
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__name__ == "_AsyncWriterThread"):
            before(failure)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def build_loggers(folder: Path, settings: PretrainSettings, resume_step: int | None = None) -> list[Logger]:
    """CSV and TensorBoard, and Weights & Biases where a project is named.

    Args:
        folder: Gets the log files.
        settings: Of the run; Weights & Biases gets all of them.
        resume_step: Step that the run goes on from, None for a new one.
    """
    loggers: list[Logger] = [HistoryLogger(folder, resume_step)]
    loggers.append(CarefulLogger(lambda: TensorBoardLogger(folder, name="tensorboard", version=""), "TensorBoard"))
    if settings.logger.wandb_project is not None:
        wandb = CarefulLogger(
            lambda: _wandb_logger(folder, settings.logger, settings.experiment_name), "Weights & Biases"
        )
        wandb.log_hyperparams(dataclasses.asdict(settings))
        loggers.append(wandb)
    return loggers


@rank_zero_only
def _wandb_logger(folder: Path, settings: LoggerSettings, name: str) -> Logger | None:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    offline = settings.wandb_mode == "offline"
    if settings.wandb_mode is None and wandb.api.api_key is None:
        offline = True
        logger.warning("Weights & Biases: no account on this machine, logging offline; `wandb sync` uploads it later")
    inner = WandbLogger(
        project=settings.wandb_project, entity=settings.wandb_entity, name=name, save_dir=folder, offline=offline
    )
    _ = inner.experiment  # starts the run now: later a failure would not be caught
    return inner


def _written(row: dict[str, float]) -> dict[str, str]:
    return {
        name: str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))
        for name, value in row.items()
    }
