"""Labelled sequences: a table of them, what its labels mean, and a task of train, dev and test tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..genome import Interval

LabelKind = Literal["classification", "multilabel", "regression"]


@dataclass(frozen=True)
class Table:
    """Sequences in the order of their file, with what the file says of them.

    Attributes:
        source: The file, for messages.
        names: One per row: its name column, its FASTA header, ``contig:start-end`` or its number from 1.
        bases: Encoded bases of each row, as in ``vocabulary``.
        labels: The label of each row as text; several labels are joined by ``;``, several label columns by ``,``. None
            if the file has none.
        places: Where each row stands, such as ``train.csv, line 7``.
        coordinates: Where each row lies in a genome, or None if the file does not say.
        strands: ``+``, ``-`` or ``.`` of each row.
        label_columns: Names of the label columns where the labels stand in several.
    """

    source: str
    names: tuple[str, ...]
    bases: tuple[NDArray[np.uint8], ...]
    labels: tuple[str, ...] | None
    places: tuple[str, ...]
    coordinates: tuple[Interval, ...] | None = None
    strands: tuple[str, ...] | None = None
    label_columns: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Table":
        """The rows of these numbers, from 0, in their order."""
        per_row = ("names", "bases", "labels", "places", "coordinates", "strands")
        whole = {name: getattr(self, name) for name in per_row}
        return replace(self, **{name: values and tuple(values[row] for row in rows) for name, values in whole.items()})


@dataclass(frozen=True)
class LabelScheme:
    """What the labels of a task mean.

    Attributes:
        kind: One class of several, any number of several labels, or numbers.
        names: The classes, the labels or the columns of numbers; their place is the index.
    """

    kind: LabelKind
    names: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """One table with its labels as numbers.

    Attributes:
        table: The rows.
        targets: int64 [rows] class indices, float32 [rows, labels] of 0 and 1, or float32 [rows, columns] of numbers.
    """

    table: Table
    targets: NDArray

    def draw(self, most: int, seed: int) -> "Split":
        """So many random rows in their order, the same for the same seed; the split itself if it has no more."""
        if len(self.table) <= most:
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.table))[:most])
        return Split(self.table.take(rows), self.targets[rows])


@dataclass(frozen=True)
class TaskData:
    """The three splits of one fold of a task, read and checked.

    Attributes:
        name: Such as ``gue/prom_core_tata``.
        metric: What the suite reports: mcc, accuracy, f1, auroc, auprc or spearman.
        scheme: Common to the splits.
        train: Fits.
        dev: Chooses; None only where the caller said that it needs none.
        test: Reports; never chooses.
        warnings: What was found in the data and counted, one line each.
    """

    name: str
    metric: str
    scheme: LabelScheme
    train: Split
    dev: Split | None
    test: Split | None
    warnings: tuple[str, ...] = ()
