"""One pre-training run, from its settings to its summary: check, build, fit, finish."""

import dataclasses
import json
import math
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..conversion import UNTRAINED
from ..data.datamodule import HG38DataModule
from ..errors import CheckpointError, ConfigError, DataError
from ..inference.model import check_model_folder
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..storage import appearing_folder, folder_lock, open_text, remove, sweep
from ..tokenization_hnet_ntv2 import HNetNTV2Tokenizer
from .build import Run, build_run
from .checkpoint_format import explained, read_checkpoint
from .checkpoints import BEST, LAST, clear_checkpoints, find_checkpoint, holds_run, sweep_checkpoints
from .devices import is_first_process
from .display import TRAIN, VALIDATION, build_loggers, without_threads_tracebacks
from .identity import copy_ledger
from .settings import PretrainSettings

FINISHED = "finished"
# Folders inside a run's folder.
FOLDERS = ("checkpoints", "logs", "configs")
# Results of an earlier run in the same folder, besides its checkpoints.
_RESULTS = ("checkpoints/hf", "logs/summary.json", "logs/tensorboard", "summary.json", "curves.png")

# Lightning's warnings about what is intended here, or what a user cannot change.
_EXPECTED_WARNINGS = (
    r".*does not have many workers.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*The `srun` command is available on your system but is not used.*",
    r".*`training_step` returned `None`.*",
)


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        status: "finished", or "stopped by SIGTERM" and the like.
        step: Finished optimiser steps.
        max_steps: Optimiser steps of the whole run.
        seconds: Wall clock of the training, validations included.
        bases_per_second: Of the last step.
        precision: Lightning's name of the arithmetic.
        batch: How the global batch was split.
        parameters: Parameters per part of the model.
        train: Metrics of the last step.
        validation: The last validation report; empty if there was none.
        best_bits: Least validation bits per base so far; NaN without validation.
        paths: Files and folders that were written, by what they are.
    """

    status: str
    step: int
    max_steps: int
    seconds: float
    bases_per_second: float
    precision: str
    batch: str
    parameters: dict[str, int]
    train: dict[str, float]
    validation: dict[str, float]
    best_bits: float
    paths: dict[str, str]

    @property
    def is_finished(self) -> bool:
        return self.status == FINISHED


@dataclass(frozen=True)
class PretrainResult:
    """A run's summary, its model on the CPU in evaluation mode, and its data.

    Attributes:
        summary: How it ended.
        model: The trained model.
        datamodule: The windows it was trained on.
        history: ``train.csv`` and ``validation.csv`` by "train" and "validation".
        is_main_process: False in the helper processes of a run on several devices, which should stay silent.
    """

    summary: RunSummary
    model: HNetNTV2ForMaskedLM
    datamodule: HG38DataModule
    history: dict[str, Path]
    is_main_process: bool


def pretrain(settings: PretrainSettings) -> PretrainResult:
    """Pre-train a model, or go on with it.

    Args:
        settings: The whole run.

    Raises:
        ConfigError: A setting that cannot be, or another process that trains in the same folder.
        DataError: No data, or data of which nothing can be drawn.
        CheckpointError: Nothing to resume from, or a checkpoint of another run.
        TrainingStopped: The loss became NaN, a chunk ratio collapsed, or a loader was killed; the state was saved.
    """
    check_ready(settings)
    with _locked(settings.folder), _without_expected_warnings(), without_threads_tracebacks():
        checkpoints = settings.folder / "checkpoints"
        resume_from = None if settings.resume is None else find_checkpoint(settings.resume, checkpoints)
        begins_here = resume_from is None or checkpoints.resolve() not in resume_from.resolve().parents
        if begins_here and is_first_process():
            check_earlier_run(settings)
        run = build_run(settings, resume_from)
        if begins_here and is_first_process():
            clear_earlier_run(settings.folder)  # only now: nothing is lost to a mistake in the new run's settings
        run.trainer.loggers = build_loggers(settings.folder / "logs", settings, run.resume_step)
        run.write_configs()
        started = time.monotonic()
        with run.stop.installed(), run.watch.installed(), _explained_mismatch(resume_from):
            run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=resume_from, weights_only=False)
        return _finish(run, time.monotonic() - started)


# ---- check


def check_ready(settings: PretrainSettings) -> None:
    """Check all that can be checked before the model and the genome are read.

    Raises:
        ConfigError: The output folder cannot be written.
        DataError: There is no data.
        WeightsError: The folder to start from holds no model.
    """
    data = settings.data
    if not data.bundled and data.fasta is None:
        raise DataError("no genome: give --data FASTA (hg38 as .fa, .fa.gz or .2bit), or try --demo, which needs none")
    for option, value in {"--data": data.fasta, "--intervals": data.intervals, "--init": settings.init}.items():
        if value is not None and not Path(value).exists():
            raise DataError(f"{option} {value}: there is no such file or folder")
    if settings.init is not None:
        check_model_folder(settings.init)
    folder = settings.folder
    try:
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        probe = folder / "checkpoints" / f".writable.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--output-dir {folder} cannot be written: {error}") from error


def check_earlier_run(settings: PretrainSettings) -> None:
    """Refuse to begin in a folder that holds another run, unless ``overwrite`` lets it be deleted.

    Raises:
        ConfigError: ``overwrite`` is off, or this run starts from the other's model.
    """
    folder = settings.folder / "checkpoints"
    if not holds_run(folder):
        return
    if not settings.overwrite:
        raise ConfigError(
            f"{folder} holds the checkpoints of an earlier run: --resume goes on with it, another --output-dir starts "
            "beside it, `-- overwrite=true` deletes it"
        )
    if settings.init is not None and folder.resolve() in Path(settings.init).resolve().parents:
        raise ConfigError(
            f"--init {settings.init} is of the run that overwrite=true would delete; name another --output-dir"
        )


def clear_earlier_run(folder: Path) -> None:
    """Delete what an earlier run wrote: nothing of it may be taken for the new run's.

    Raises:
        ConfigError: Something cannot be deleted.
    """
    try:
        clear_checkpoints(folder / "checkpoints")
        for name in _RESULTS:
            remove(folder / name)
    except OSError as error:
        raise ConfigError(f"the earlier run in {folder} cannot be deleted: {error}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder in rank 0, which alone writes there, and delete what killed runs left in it.

    Raises:
        ConfigError: Another process trains there.
    """
    if not is_first_process():
        yield
        return
    with folder_lock(folder):
        sweep_checkpoints(folder / "checkpoints")
        for name in FOLDERS:
            sweep(folder / name)
        yield


@contextmanager
def _explained_mismatch(path: Path | None) -> Iterator[None]:
    """Turn torch's list of unexpected tensors into one line; only a checkpoint of another version has them."""
    try:
        yield
    except RuntimeError as error:
        if path is None or not str(error).startswith("Error(s) in loading state_dict"):
            raise
        raise CheckpointError(
            f"checkpoint {path} is of another version of this package ({' '.join(str(error).split())}); "
            "configs/environment.json of its run names the version"
        ) from error


@contextmanager
def _without_expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


# ---- finish


def _finish(run: Run, seconds: float) -> PretrainResult:
    """Export the model and write the summary."""
    settings, trainer, log = run.settings, run.trainer, run.log
    if settings.trainer.strategy == "fsdp":
        model = _model_of_checkpoint(run.module.model.config, settings.folder / "checkpoints" / LAST)
    else:
        model = run.module.model.eval()
        torch.nn.Module.to(model, "cpu")
    # A signal in the last step leaves no time for the validation; a resume makes up for it.
    is_finished = log.validated_step == settings.trainer.max_steps
    stopped_by = signal.Signals(run.stop.stopped_by).name if run.stop.stopped_by else "the trainer"
    paths = _written_paths(settings.folder)
    if trainer.is_global_zero and is_finished:
        paths["model"] = str(export_model(model, settings.folder / "checkpoints" / "hf", settings.init))
    run.datamodule.trainer = None  # from here on its loaders serve whole splits, not one rank's share
    summary = RunSummary(
        status=FINISHED if is_finished else f"stopped by {stopped_by}",
        step=trainer.global_step,
        max_steps=settings.trainer.max_steps,
        seconds=seconds,
        bases_per_second=log.bases_per_second,
        precision=run.precision.lightning,
        batch=str(run.plan),
        parameters=model.count_parameters(),
        train=log.last_step,
        validation=log.last_validation,
        best_bits=run.keeper.best_value if math.isfinite(run.keeper.best_value) else math.nan,
        paths=paths,
    )
    if trainer.is_global_zero:
        _write_summary(settings.folder / "logs" / "summary.json", summary)
    history = {part: settings.folder / "logs" / f"{part}.csv" for part in (TRAIN, VALIDATION)}
    return PretrainResult(summary, model, run.datamodule, history, trainer.is_global_zero)


def export_model(model: HNetNTV2ForMaskedLM, folder: Path, started_from: str | None = None) -> Path:
    """Write a folder that ``from_pretrained`` reads, tokenizer included; an older one is replaced when it is complete.

    Args:
        model: What to write.
        folder: Where.
        started_from: Folder of the first weights, whose model card and graft ledger go along.

    Raises:
        CheckpointError: It cannot be written.
    """
    with (
        explained(f"model folder {folder} could not be saved", "The checkpoints are complete: --resume tries it again"),
        appearing_folder(folder) as temporary,
    ):
        model.save_pretrained(temporary)
        HNetNTV2Tokenizer().save_pretrained(temporary)
        if started_from is not None:
            _keep_card(Path(started_from), temporary)
            copy_ledger(Path(started_from), temporary)
    return folder


def _keep_card(start: Path, folder: Path) -> None:
    """A descendant of a grafted model inherits its licence, so it carries the card that names it."""
    card = start / "README.md"
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8").replace(UNTRAINED, "**Trained further** from the weights described here.")
    (folder / "README.md").write_text(text, encoding="utf-8")


def _model_of_checkpoint(config: HNetNTV2Config, path: Path) -> HNetNTV2ForMaskedLM:
    """The whole model from a checkpoint, where every process holds a shard only."""
    state = read_checkpoint(path)["state_dict"]
    model = HNetNTV2ForMaskedLM(config)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    return model.eval()


def _written_paths(folder: Path) -> dict[str, str]:
    candidates = {
        "last": folder / "checkpoints" / LAST,
        "best": folder / "checkpoints" / BEST,
        "train log": folder / "logs" / "train.csv",
        "valid log": folder / "logs" / "validation.csv",
        "tensorboard": folder / "logs" / "tensorboard",
        "config": folder / "configs" / "config.yaml",
        "environment": folder / "configs" / "environment.json",
    }
    return {name: str(path) for name, path in candidates.items() if path.exists()}


def _write_summary(path: Path, summary: RunSummary) -> None:
    values = _without_nan(dataclasses.asdict(summary))  # JSON has no word for NaN
    with open_text(path) as file:
        file.write(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
