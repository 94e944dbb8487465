"""Small tasks with planted signals."""

from collections.abc import Sequence

import numpy as np

from hnet_ntv2.tasks.table import LabelKind, LabelScheme, Split, Table, TaskData
from hnet_ntv2.vocabulary import encode

METRICS = {"classification": "mcc", "multilabel": "auroc", "regression": "spearman"}


def table(*sequences: str, name: str = "rows") -> Table:
    """A table without labels."""
    numbers = tuple(str(row + 1) for row in range(len(sequences)))
    places = tuple(f"{name}.csv, line {row + 2}" for row in range(len(sequences)))
    return Table(f"{name}.csv", numbers, tuple(encode(one.encode()) for one in sequences), None, places)


def random_sequences(rows: int, seed: int, length: int = 40) -> list[str]:
    letters = np.random.default_rng(seed).choice(list("ACGT"), size=(rows, length))
    return ["".join(row) for row in letters]


def task(train: tuple, dev: tuple, test: tuple, kind: LabelKind = "classification", columns: int = 2) -> TaskData:
    """A task of three pairs of sequences and targets."""
    names = tuple(f"column {column}" for column in range(columns))
    splits = [
        Split(table(*sequences, name=name), np.asarray(targets))
        for name, (sequences, targets) in zip(("train", "dev", "test"), (train, dev, test), strict=True)
    ]
    return TaskData("planted", METRICS[kind], LabelScheme(kind, names), *splits)


def planted_task(kind: LabelKind = "classification", sizes: Sequence[int] = (160, 60, 60)) -> TaskData:
    """Rows whose targets are their poly-A and poly-G stretches at a place of their own."""
    splits = []
    for seed, rows in enumerate(sizes):
        random = np.random.default_rng(seed + 10)
        has = random.integers(2, size=(rows, 2)).astype(np.float32)
        sequences = []
        for sequence, (first, second) in zip(random_sequences(rows, seed), has, strict=True):
            sequence = sequence[:5] + "AAAAAAAA" + sequence[13:] if first else sequence
            sequences.append(sequence[:25] + "GGGGGGGG" + sequence[33:] if second else sequence)
        targets = {
            "classification": has[:, 0].astype(np.int64),
            "multilabel": has,
            "regression": (has * [3, 1] + random.normal(size=has.shape) * 0.1).astype(np.float32),
        }[kind]
        splits.append((sequences, targets))
    return task(*splits, kind=kind)
