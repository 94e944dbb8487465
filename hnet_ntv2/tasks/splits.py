"""Train, dev and test of a task: take dev out of train, find rows that stand in two of them, put it all together."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..genome import Genome, reverse_complement
from ..vocabulary import BASE_BITS
from .labels import count_missing_labels, encode_labels, label_scheme
from .reading import read_table
from .table import LabelKind, LabelScheme, Split, Table, TaskData

NUM_FOLDS = 10
"""Dev is one of so many parts of train."""
DEFAULT_METRICS: dict[LabelKind, str] = {"classification": "mcc", "multilabel": "auroc", "regression": "spearman"}
_METRICS_OF_LABELS = ("mcc", "accuracy", "f1", "auroc", "auprc")
_METRICS_OF_NUMBERS = ("spearman", "pearson", "r2")


def load_tables(
    train: str | os.PathLike[str],
    dev: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    *,
    genome: Genome | None = None,
    kind: str = "auto",
    metric: str | None = None,
    sequence_column: str = "sequence",
    label_column: str = "label",
    name_column: str = "name",
    seed: int = 0,
) -> TaskData:
    """A task from the files of its splits; without ``dev``, a tenth of train is dev, and ``warnings`` says so.

    Args:
        train: File to fit on, as ``read_table`` reads it.
        dev: File to choose on.
        test: File to report on.
        genome: For BED files.
        kind: As in ``label_scheme``.
        metric: Default by kind: mcc, auroc or spearman.
        sequence_column: As in ``read_table``.
        label_column: As in ``read_table``.
        name_column: As in ``read_table``.
        seed: Draws dev.

    Raises:
        ConfigError, DataError, GenomeError: As ``read_table``, ``label_scheme`` and ``make_task``.
    """
    tables = [
        None
        if path is None
        else read_table(
            path,
            genome=genome,
            sequence_column=sequence_column,
            label_column=label_column,
            name_column=name_column,
        )
        for path in (train, dev, test)
    ]
    assert tables[0] is not None
    return make_task(
        Path(train).name.split(".")[0], tables[0], tables[1], tables[2], kind=kind, metric=metric, seed=seed
    )


def make_task(
    name: str,
    train: Table,
    dev: Table | None,
    test: Table | None,
    *,
    kind: str = "auto",
    metric: str | None = None,
    fold: int = 0,
    seed: int = 0,
    warnings: tuple[str, ...] = (),
) -> TaskData:
    """A task from tables; without ``dev``, part ``fold`` of ten of train, as in ``draw_parts``, becomes dev.

    What does not stop the work is counted in ``warnings``.

    Raises:
        ConfigError: The metric is unknown or not one for this kind.
        DataError: As ``label_scheme``.
    """
    scheme = label_scheme([table for table in (train, dev, test) if table is not None], kind)
    metric = metric or DEFAULT_METRICS[scheme.kind]
    check_metric(metric, scheme)
    notes = list(warnings)
    if dev is None:
        is_dev = draw_parts(train, encode_labels(train, scheme), seed) == fold
        dev, train = train.take(np.flatnonzero(is_dev)), train.take(np.flatnonzero(~is_dev))
        notes.append(
            f"{train.source} has no dev file beside it: {len(dev):,} of its rows are dev, {len(train):,} train"
        )
    notes += check_splits(train, dev, test)
    tables = {"train": train, "dev": dev, "test": test}
    for split, table in tables.items():
        if table is not None and (missing := count_missing_labels(table, scheme)):
            notes.append(f"{split}: {missing}")
    splits = [None if table is None else Split(table, encode_labels(table, scheme)) for table in tables.values()]
    assert splits[0] is not None
    return TaskData(name, metric, scheme, splits[0], splits[1], splits[2], tuple(notes))


def check_metric(metric: str, scheme: LabelScheme) -> None:
    """Raise ConfigError for a metric that is unknown or not one for labels of this kind."""
    fitting = _METRICS_OF_NUMBERS if scheme.kind == "regression" else _METRICS_OF_LABELS
    if metric not in fitting:
        raise ConfigError(f"the metric {metric!r} is none for {scheme.kind}; use {', '.join(fitting)}")


def draw_parts(table: Table, targets: NDArray, seed: int) -> NDArray[np.int64]:
    """Which of ten parts each row belongs to, as [rows] numbers from 0.

    The parts hold the same share of each class. A row's copies and their reverse complements are in the same part, or
    dev would hold what train does.
    """
    digests = [digest for digest, _ in _digests(table)]
    _, first_rows, copy_of = np.unique(digests, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first_rows))
    if targets.ndim == 1:
        order = order[np.argsort(targets[first_rows[order]], kind="stable")]
    parts = np.empty(len(order), dtype=np.int64)
    parts[order] = np.arange(len(order)) % NUM_FOLDS
    return parts[copy_of]


def check_splits(train: Table, dev: Table | None, test: Table | None) -> list[str]:
    """Warnings that count the rows which stand in two splits, also as the reverse complement, and unequal lengths.

    Soft-masking does not matter. Each warning names an example and both its places.
    """
    tables = {"train": train, "dev": dev, "test": test}
    given = {name: table for name, table in tables.items() if table is not None}
    digests = {name: list(_digests(table)) for name, table in given.items()}
    found = [
        _duplicates(first, given[first], digests[first], second, given[second], digests[second])
        for first, second in combinations(given, 2)
    ]
    lengths = [len(bases) for table in given.values() for bases in table.bases]
    if min(lengths) != max(lengths):
        found.append(
            f"sequences have {min(lengths):,} to {max(lengths):,} bases, half of them up to {_median(lengths)}"
        )
    return [warning for warning in found if warning]


def _median(lengths: list[int]) -> str:
    return f"{sorted(lengths)[(len(lengths) - 1) // 2]:,}"


def _digests(table: Table) -> Iterator[tuple[bytes, bool]]:
    """A digest of each row that its reverse complement shares, and whether the row is the one of the two given."""
    for bases in table.bases:
        plain = bases & np.uint8(BASE_BITS)
        forward, backward = plain.tobytes(), reverse_complement(plain).tobytes()
        yield hashlib.blake2b(min(forward, backward), digest_size=16).digest(), forward <= backward


def _duplicates(
    first: str,
    first_table: Table,
    first_digests: list[tuple[bytes, bool]],
    second: str,
    second_table: Table,
    second_digests: list[tuple[bytes, bool]],
) -> str | None:
    rows_of: dict[bytes, list[int]] = defaultdict(list)
    for row, (digest, _) in enumerate(first_digests):
        rows_of[digest].append(row)
    pairs = [(row, rows_of[digest]) for row, (digest, _) in enumerate(second_digests) if digest in rows_of]
    if not pairs:
        return None
    # A copy on the same strand counts as such, wherever else its reverse complement stands.
    num_reversed = sum(
        all(first_digests[other][1] != second_digests[row][1] for other in others) for row, others in pairs
    )
    row, others = pairs[0]
    return (
        f"{len(pairs):,} of {len(second_table):,} rows of {second} are also in {first} ({num_reversed:,} of them as "
        f"reverse complement), such as {second_table.places[row]} and {first_table.places[others[0]]}"
    )
