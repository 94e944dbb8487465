"""Predictions of a fine-tuned classifier as a table: one row per record, in the order of the input."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError
from ..genome import Interval
from ..inference.windows import DEFAULT_BATCH_BASES, Progress, group_sequences
from ..storage import appearing_file, is_stream, open_text
from ..tasks.table import LabelScheme
from .classifier import predict_scores, scheme_of

TEXT_SUFFIXES, PARQUET = (".tsv", ".tsv.gz", ".txt"), ".parquet"
_DIGITS = 6
_MISSING = "NA"  # in text: no class and no number, for a row without A, C, G and T


class Record(Protocol):
    """A row to predict."""

    @property
    def name(self) -> str: ...
    @property
    def bases(self) -> NDArray[np.uint8]: ...
    @property
    def interval(self) -> Interval | None: ...
    @property
    def strand(self) -> str | None: ...


@dataclass(frozen=True)
class Prediction:
    """One record's scores.

    Attributes:
        record: As it was read.
        number: From 1.
        scores: [columns] probabilities or values, as ``scheme_of(model.config)`` says; NaN without A, C, G and T.
    """

    record: Any
    number: int
    scores: NDArray


def predict(
    model: Any,
    records: Iterable[Any],
    batch_bases: int = DEFAULT_BATCH_BASES,
    progress: Progress | None = None,
) -> Iterator[Prediction]:
    """Predictions of records in their order; some 32 batches of them are held at a time.

    Args:
        model: Of ``load_classifier``.
        records: Read as they are needed.
        batch_bases: Most bases of one forward pass, padding included, before strands.
        progress: Called with the records done.

    Raises:
        ConfigError: ``batch_bases`` is not positive.
    """
    if batch_bases < 1:
        raise ConfigError(f"batch_bases={batch_bases} must be positive")
    done = 0
    for group in group_sequences(records, batch_bases):
        scores = predict_scores(model, [record.bases for record in group], batch_bases)
        for record, row in zip(group, scores, strict=True):
            done += 1
            yield Prediction(record, done, row)
        if progress is not None:
            progress(done)
