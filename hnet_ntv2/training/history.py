"""Loggers: CSV files that survive a resume; TensorBoard and Weights & Biases, which can never end a run."""

import csv
import io
import logging
import math
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ..errors import ConfigError, DataError
from ..storage import open_text
from .settings import LoggerSettings

logger = logging.getLogger(__name__)

TRAIN, VALIDATION = "train", "validation"


class HistoryLogger(Logger):
    """Writes ``train.csv`` and ``validation.csv``, one row per logged step, flushed at once.

    A step that is logged again (a resumed run validates the step of its checkpoint again) replaces its row.

    Names are ``train/...`` and ``validation/...``; the part in front of the first slash chooses the file.

    Args:
        folder: Where the files go.
        resume_step: Rows after this step are dropped (they will be written again); None starts new files.
    """

    def __init__(self, folder: Path, resume_step: int | None = None):
        super().__init__()
        self.folder = folder
        self.rows: dict[str, list[dict[str, float]]] = {TRAIN: [], VALIDATION: []}
        self._columns: dict[str, list[str]] = {TRAIN: [], VALIDATION: []}
        for part in (TRAIN, VALIDATION):
            if resume_step is not None:
                self.rows[part] = [row for row in read_history(self.path(part)) if row["step"] <= resume_step]
            self._rewrite(part)

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> str:
        return ""

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
            if self._columns[part]:
                writer = csv.DictWriter(file, self._columns[part], restval="")
                writer.writeheader()
                writer.writerows(map(_written, self.rows[part]))


def read_history(path: Path) -> list[dict[str, float]]:
    """Rows of a history file; empty cells are left out, a row cut off by a crash too.

    Raises:
        DataError: It is not such a file.
    """
    if not path.is_file():
        return []
    complete, end, _ = path.read_bytes().rpartition(b"\n")  # what follows was cut off, perhaps within a number
    try:
        text = io.StringIO((complete + end).decode("utf-8"), newline="")
        rows = [{name: float(value) for name, value in row.items() if name and value} for row in csv.DictReader(text)]
    except ValueError as error:
        raise DataError(f"{path} is no log of a run: {error}; move it away to go on without it") from error
    return [row for row in rows if "step" in row]


class CarefulLogger(Logger):
    """Wraps a logger that a run can do without: the first failure is told and switches it off, the run goes on.

    Args:
        build: Makes the wrapped logger; a failure to make it counts too.
        title: Its name in the warning.
    """

    def __init__(self, build: Callable[[], Logger | None], title: str):
        super().__init__()
        self.title = title
        self._inner: Logger | None = None
        self._inner = self._carefully(build)

    @property
    def name(self) -> str:
        return self.title

    @property
    def version(self) -> str:
        return ""

    @property
    def is_alive(self) -> bool:
        """Whether it still logs."""
        return self._inner is not None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log, as long as it works."""
        inner = self._inner
        if inner is not None:
            self._carefully(lambda: inner.log_metrics(dict(metrics), step))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log, as long as it works."""
        inner = self._inner
        if inner is not None:
            self._carefully(lambda: inner.log_hyperparams(params, *args, **kwargs))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close, as long as it works."""
        inner = self._inner
        if inner is not None:
            self._carefully(lambda: inner.finalize(status))

    def _carefully(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # whatever a logging service does, training goes on, and the user is told
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


def build_loggers(
    folder: Path, settings: LoggerSettings, name: str, hyperparameters: dict[str, Any], resume_step: int | None = None
) -> list[Logger]:
    """CSV and TensorBoard, and Weights & Biases where a project is named.

    Args:
        folder: Gets the log files.
        settings: See :class:`LoggerSettings`.
        name: Name of the run.
        hyperparameters: Settings of the run, for Weights & Biases.
        resume_step: Step that the run goes on from, None for a new one.
    """
    loggers: list[Logger] = [HistoryLogger(folder, resume_step)]
    loggers.append(CarefulLogger(lambda: TensorBoardLogger(folder, name="tensorboard", version=""), "TensorBoard"))
    if settings.wandb_project is not None:
        wandb = CarefulLogger(lambda: _wandb_logger(folder, settings, name), "Weights & Biases")
        wandb.log_hyperparams(hyperparameters)
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
    _ = inner.experiment  # starts the run now, where a failure is caught
    return inner


def _written(row: dict[str, float]) -> dict[str, str]:
    return {
        name: str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))
        for name, value in row.items()
    }
