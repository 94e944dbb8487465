"""Sequence classifiers of either kind of model: build one for a task, load one, feed it bases, score sequences."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..conversion.calibrate import calibrate_routers
from ..errors import ConfigError, WeightsError
from ..inference.model import check_model_folder, choose_device, load_weights
from ..inference.windows import DEFAULT_BATCH_BASES, batches_by_length, pad_rows
from ..model_files import read_json
from ..modeling_hnet_ntv2 import HNetNTV2ForSequenceClassification
from ..resources import bundled_model
from ..shapes import Tensor
from ..tasks.labels import PROBLEM_TYPES, scheme_from_config
from ..tasks.table import LabelKind, LabelScheme
from ..training.teachers import cut_tokens
from ..vocabulary import BASE_BITS, PAD_ID, SOURCE_CLS, is_clean_base, source_kmer_size
from .results import RANDOM

_CALIBRATION_ROWS = 256


def start_classifier(
    folder: str | os.PathLike[str] | None,
    scheme: LabelScheme,
    *,
    pooling: str,
    strands: str,
    sequences: Sequence[NDArray[np.uint8]],
) -> PreTrainedModel:
    """A classifier with a new head on a pretrained model, in float32 on the CPU.

    Draws from torch's global generator: seed it for the same head.

    Args:
        folder: An HNet-NTv2 or NTv2 folder; ``random:FOLDER`` for its architecture with random weights; None for the
            bundled model. A head that it holds is not used.
        scheme: Labels of the task, written into the model's config.
        pooling: ``config.classification_pooling``.
        strands: ``config.classification_strands``.
        sequences: Of the task; routers of random weights are calibrated on some of them.

    Raises:
        WeightsError: There is no such model.
        ConfigError: The pooling or the strands do not suit the model.
    """
    is_random = str(folder).startswith(RANDOM)
    path = bundled_model() if folder is None else Path(str(folder).removeprefix(RANDOM)).expanduser()
    model_class: Any = classifier_class(path)
    config: Any = model_class.config_class.from_json_file(path / "config.json")
    config.problem_type = PROBLEM_TYPES[scheme.kind]
    config.id2label = dict(enumerate(scheme.names))
    config.label2id = {name: index for index, name in enumerate(scheme.names)}
    config.classification_pooling = pooling
    if model_class is HNetNTV2ForSequenceClassification:
        config.classification_strands = strands
    elif strands != "forward":
        raise ConfigError(f"strands={strands!r} is for HNet-NTv2 models; {path} reads one strand: choose 'forward'")
    if not is_random:
        return _load(model_class, path, config=config, ignore_mismatched_sizes=True, new_head=True)
    model = model_class(config)
    if isinstance(model, HNetNTV2ForSequenceClassification):
        rows = [row for row in sequences if is_clean_base(row & BASE_BITS).any()][:_CALIBRATION_ROWS]
        calibrate_routers(model.model, [pad_rows(rows, torch.device("cpu"))])
    return model


def classifier_class(folder: Path) -> type[PreTrainedModel]:
    """The classifier for the model in a folder.

    Raises:
        WeightsError: It holds no model of either kind.
        ConfigError: A setting of an HNet-NTv2 model cannot be.
    """
    if folder.is_dir() and (folder / "config.json").is_file():
        kind = read_json(folder / "config.json").get("model_type")
        # Published NTv2 folders name no type.
        if kind in (None, "ntv2", "esm"):
            from ..modeling_ntv2 import NTv2ForSequenceClassification

            return NTv2ForSequenceClassification
    check_model_folder(folder)
    return HNetNTV2ForSequenceClassification


def load_classifier(folder: str | os.PathLike[str], device: str = "auto") -> PreTrainedModel:
    """A fine-tuned classifier in eval mode, in float32 on a device.

    Raises:
        WeightsError: The folder holds no model, or one without a classifier's head.
        ConfigError: The device cannot be used, or a setting in ``config.json`` is unknown.
    """
    path = Path(folder).expanduser()
    model_class = classifier_class(path)
    architectures = read_json(path / "config.json").get("architectures") or []
    if not any("ForSequenceClassification" in str(name) for name in architectures):
        raise WeightsError(
            f"{path} holds a model without a classifier's head; train one with `hnet-ntv2 finetune --model {path}`"
        )
    place = choose_device(device)
    model: Any = _load(model_class, path)
    return model.to(place).eval()


def _load(model_class: Any, path: Path, new_head: bool = False, **options: Any) -> PreTrainedModel:
    with quiet_transformers():
        model = load_weights(model_class, path, **options)
    if new_head:
        for module in head_modules(model):
            module.apply(model._init_weights)
    return model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' bars over tensors and its report that a new head is new."""
    shows_progress, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shows_progress:
            transformers_logging.enable_progress_bar()


def head_modules(model: nn.Module) -> list[nn.Module]:
    """What a classifier has beside the pretrained model."""
    prefix = getattr(model, "base_model_prefix", "model")
    return [module for name, module in model.named_children() if name != prefix]


def model_inputs(config: Any, rows: Sequence[NDArray[np.uint8]], device: torch.device) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask`` of encoded rows as a model of this config reads them, right-padded."""
    bases = pad_rows(rows, device)
    is_valid = bases != PAD_ID
    if isinstance(config, HNetNTV2Config):
        return {"input_ids": bases, "attention_mask": is_valid.long()}
    tokens = cut_tokens(bases, is_valid, source_kmer_size(config.vocab_size))
    front = torch.full_like(bases[:, :1], SOURCE_CLS)
    mask = torch.cat([torch.ones_like(front), tokens.is_valid.long()], 1)
    return {"input_ids": torch.cat([front, tokens.ids], 1), "attention_mask": mask}


def predict_scores(
    model: PreTrainedModel, rows: Sequence[NDArray[np.uint8]], batch_bases: int = DEFAULT_BATCH_BASES
) -> NDArray:
    """Scores [rows, columns] of encoded sequences, in the model's float type.

    Probabilities of classes (rows add up to 1) or of labels, or values, as the model's config says; NaN for a row
    without A, C, G and T.

    Args:
        model: In eval mode.
        rows: Encoded bases.
        batch_bases: Most bases of one forward pass, padding included.
    """
    scheme = scheme_from_config(model.config)
    readable = [index for index, row in enumerate(rows) if is_clean_base(row & BASE_BITS).any()]
    dtype = np.float64 if model.dtype == torch.float64 else np.float32
    scores = np.full((len(rows), len(scheme.names)), np.nan, dtype)
    for chosen in batches_by_length([len(rows[index]) for index in readable], batch_bases):
        batch = [readable[index] for index in chosen]
        with torch.inference_mode():
            logits = model(**model_inputs(model.config, [rows[index] for index in batch], model.device)).logits
            scores[batch] = to_scores(logits, scheme.kind).cpu().numpy()
    return scores


def to_scores(logits: Tensor, kind: LabelKind) -> Tensor:
    """Probabilities of classes or labels, or values, [rows, columns], from a classifier's logits."""
    if kind == "classification":
        return logits.softmax(-1)
    return logits.sigmoid() if kind == "multilabel" else logits
