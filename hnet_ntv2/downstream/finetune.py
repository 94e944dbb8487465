"""Fine-tune a model on a task: from train and dev to an ordinary folder of a classifier, and scores of test."""

import importlib.util
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..chunking import Router
from ..errors import ConfigError, DataError
from ..inference.model import choose_device
from ..storage import resolve
from ..tasks.table import Split, TaskData
from ..vocabulary import BASE_BITS, is_clean_base
from .classifier import predict_scores, quiet_transformers, start_classifier, to_scores
from .finetune_output import ADAPTER, describe_metrics, epoch_rows, write_result
from .finetune_run import CHECKPOINTS, describe_job, workplace
from .finetune_settings import FinetuneSettings
from .metrics import compute_metric
from .results import UnitResult

__all__ = ["FinetuneResult", "FinetuneSettings", "finetune"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning gave.

    Attributes:
        unit: Scores of the test rows (no rows without test), dev's metric, learning curve.
        folder: Of the classifier; None where no output was named.
        metrics: What ``metrics.json`` holds.
    """

    unit: UnitResult
    folder: Path | None
    metrics: dict[str, Any]


@dataclass(frozen=True)
class _Fitted:
    """A trained classifier in eval mode, and how training went, a row per epoch."""

    model: Any
    history: list[dict[str, Any]]
    seconds: float


def finetune(
    data: TaskData,
    settings: FinetuneSettings | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> FinetuneResult:
    """Train a classifier on a task's train, choose its epoch on dev, score test.

    Seeds the global generators of Python, numpy and torch, as transformers' Trainer does.

    Args:
        data: Dev may be None: then the last epoch is taken. Test never chooses.
        settings: None for the defaults.
        output: The folder to write: the classifier, ``metrics.json``, ``history.csv``, ``settings.json``, a model card,
            and ``adapter`` in the mode "lora". It appears when all is there; until then the epochs' checkpoints stand
            in ``OUTPUT.training``. None writes nothing.
        seed: Of the head's weights, the order of rows and the drawn strands.
        folder: An HNet-NTv2 or NTv2 folder, ``random:FOLDER`` for random weights, None for the bundled model.
        device: "auto", "cpu", "cuda" ...
        resume: Go on from the last epoch of an interrupted run with the same settings; the result is the same.
        overwrite: Replace an output that is there, and drop an interrupted run.

    Raises:
        ConfigError: A package is missing, a setting does not suit the model, or the output exists.
        WeightsError: There is no such model.
        DataError: Train or dev has no row with A, C, G or T.
        TrainingStopped: The loss is NaN.
    """
    settings = settings or FinetuneSettings()
    _require_packages(settings)
    if output is None:
        with tempfile.TemporaryDirectory(prefix="hnet-ntv2-") as place:
            fitted = _fit(data, settings, Path(place), seed, folder, device, keeps_state=False)
            return _result(data, fitted, None)
    target = resolve(output)
    job = describe_job(data, settings, seed, folder, device)
    with workplace(target, job, resume, overwrite) as place:
        fitted = _fit(data, settings, place, seed, folder, device, keeps_state=True)
        result = _result(data, fitted, target)
        history = None if settings.report_to == "none" else fitted.history
        write_result(target, fitted.model, job, result.metrics, history, place)
        return result


def _require_packages(settings: FinetuneSettings) -> None:
    """Check for optional packages before anything is read.

    Raises:
        ConfigError: One is missing.
    """
    needed = ["accelerate", *(["peft"] if settings.mode == "lora" else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f'fine-tuning needs {", ".join(missing)}: pip install "hnet-ntv2[finetune]"')
    if settings.report_to == "wandb" and importlib.util.find_spec("wandb") is None:
        raise ConfigError('report_to="wandb" needs wandb: pip install "hnet-ntv2[wandb]"')


def _fit(
    data: TaskData,
    settings: FinetuneSettings,
    place: Path,
    seed: int,
    folder: str | os.PathLike[str] | None,
    device: str,
    keeps_state: bool,
) -> _Fitted:
    # Here, since Trainer takes seconds to import and needs accelerate.
    from transformers import set_seed

    from .checkpoints import last_checkpoint
    from .trainer import ClassifierTrainer, Rows, add_adapters, report_callbacks

    began = time.monotonic()
    checkpoints = place / CHECKPOINTS
    bases, targets = _readable(data.train)
    scale = _Scale.of(targets, data.scheme.kind)
    train = Rows(bases, scale.apply(targets))
    dev = None if data.dev is None else Rows(*_readable(data.dev))
    if dev is not None:
        dev.targets = scale.apply(dev.targets)
    set_seed(seed)
    model: Any = start_classifier(
        folder, data.scheme, pooling=settings.pooling, strands=settings.strands, sequences=bases
    )
    if settings.mode == "lora":
        model = add_adapters(model, settings.lora_rank)
    elif settings.routers == "frozen":
        freeze_routers(model)
    trainer = ClassifierTrainer(
        model,
        settings,
        train=train,
        dev=dev,
        metric=(data.metric, lambda wanted, logits: _score(data, wanted, logits)),
        folder=checkpoints,
        seed=seed,
        device=choose_device(device),
        keeps_state=keeps_state,
        callbacks=report_callbacks(settings.report_to, place),
    )
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    if settings.mode == "lora":
        scale.undo(model.base_model.model.classifier.modules_to_save["default"][1])
        if keeps_state:
            model.save_pretrained(place / ADAPTER)
        model = model.merge_and_unload()
    else:
        scale.undo(model.classifier[1])
    model.requires_grad_(True)  # a user's own training should not find the routers frozen
    return _Fitted(model.eval(), epoch_rows(trainer.state.log_history, data.metric), time.monotonic() - began)


def freeze_routers(model: Any) -> None:
    """Train no router: boundaries then move only as the encoders below them do."""
    for module in model.modules():
        if isinstance(module, Router):
            module.requires_grad_(False)


def _readable(split: Split) -> tuple[list[NDArray[np.uint8]], NDArray]:
    """Bases and targets of the rows that hold A, C, G or T.

    Raises:
        DataError: There are none.
    """
    table = split.table
    is_readable = np.array([bool(is_clean_base(row & BASE_BITS).any()) for row in table.bases])
    if not is_readable.any():
        raise DataError(f"{table.source}: no row holds A, C, G or T")
    if not is_readable.all():
        first = table.places[int(np.argmin(is_readable))]
        logger.warning("%d rows without A, C, G and T are left out, the first at %s", (~is_readable).sum(), first)
    return [row for row, good in zip(table.bases, is_readable, strict=True) if good], split.targets[is_readable]


@dataclass(frozen=True)
class _Scale:
    """Mean and standard deviation of train's numbers: a head learns standardised ones, in any unit of the table."""

    center: NDArray
    spread: NDArray

    @classmethod
    def of(cls, targets: NDArray, kind: str) -> "_Scale":
        if kind != "regression":
            return cls(np.zeros(1, np.float32), np.ones(1, np.float32))
        spread = targets.std(0)
        return cls(targets.mean(0), np.where(spread > 0, spread, 1).astype(np.float32))

    def apply(self, targets: NDArray) -> NDArray:
        return targets if targets.ndim == 1 else ((targets - self.center) / self.spread).astype(np.float32)

    @torch.no_grad()
    def undo(self, last: nn.Linear) -> None:
        """Let the last layer give numbers in the table's unit."""
        center, spread = (torch.from_numpy(each).to(last.weight) for each in (self.center, self.spread))
        last.weight.mul_(spread[:, None])
        last.bias.mul_(spread).add_(center)


def _score(data: TaskData, targets: NDArray, logits: NDArray) -> float:
    scores = to_scores(torch.from_numpy(logits).float(), data.scheme.kind).numpy()
    return compute_metric(data.metric, targets, scores)


def _result(data: TaskData, fitted: _Fitted, folder: Path | None) -> FinetuneResult:
    """Score dev and test with the epoch that dev chose."""
    began = time.monotonic()
    splits = {"dev": data.dev, "test": data.test}
    scores = {name: _finite_scores(data, fitted.model, split) for name, split in splits.items() if split is not None}
    metrics = describe_metrics(data, scores, fitted.history, wants_interval=folder is not None)
    best = metrics["dev"][data.metric] if data.dev is not None else None
    unit = UnitResult(
        scores=scores.get("test", np.empty((0, len(data.scheme.names)), np.float32)),
        dev_metric=best,
        chosen={"epoch": metrics["epoch"]},
        seconds=fitted.seconds + time.monotonic() - began,
        num_parameters=sum(parameter.numel() for parameter in fitted.model.parameters()),
        history=fitted.history,
    )
    return FinetuneResult(unit, folder, metrics | {"seconds": round(unit.seconds, 1)})


def _finite_scores(data: TaskData, model: Any, split: Split) -> NDArray:
    """Scores of all rows; one without A, C, G and T gets what train has on average."""
    scores = predict_scores(model, split.table.bases)
    is_empty = np.isnan(scores).any(1)
    if is_empty.any():
        targets = data.train.targets
        columns = np.eye(len(data.scheme.names))[targets] if targets.ndim == 1 else targets
        scores[is_empty] = columns.mean(0)
    return scores
