"""What simple rules and small models score on a task, in the same splits as the models."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tasks.table import Split, Table, TaskData
from .counts import count_kmers, crop_length, measure_composition, one_hot_positions
from .linear import LinearChoice, choose_linear, required_splits
from .metrics import compute_metric
from .results import UnitResult

KMER_SIZES = (3, 4, 5, 6)
NEAREST_KMER = 8  # short enough for 70 bases, long enough that unrelated rows share few
TEST_ROWS_AT_ONCE = 256


def majority(data: TaskData, seed: int) -> UnitResult:
    """Frequencies of classes or labels on train, or the mean of its numbers, for each row; the seed is not used."""
    started = time.perf_counter()
    dev, test = required_splits(data)
    always = _frequencies(data)
    dev_metric = compute_metric(data.metric, dev.targets, np.tile(always, (len(dev.table), 1)))
    return UnitResult(np.tile(always, (len(test.table), 1)), dev_metric, {}, time.perf_counter() - started)


def composition(data: TaskData, seed: int) -> UnitResult:
    """A linear model of base shares, G and C, and length; the seed is not used."""
    return _linear(data, measure_composition)


def kmers(data: TaskData, seed: int) -> UnitResult:
    """A linear model of k-mer counts; k, one strand or both, and C are chosen on dev; the seed is not used."""
    started = time.perf_counter()
    best, chosen, num_unconverged = None, {}, 0
    for k in KMER_SIZES:
        for both_strands in (False, True):
            features = [count_kmers(split.table, k, both_strands) for split in _splits(data)]
            choice = choose_linear(data, features)
            num_unconverged += choice.num_unconverged
            if best is None or choice.dev_metric > best.dev_metric:
                best, chosen = choice, {"k": k, "both_strands": both_strands}
    assert best is not None
    return _result(best, chosen, num_unconverged, started)


def onehot(data: TaskData, seed: int) -> UnitResult:
    """A linear model of the base at each position from the left end; the seed is not used."""
    length = crop_length(data.train.table)
    return _linear(data, lambda table: one_hot_positions(table, length), length=length)


def nearest(data: TaskData, seed: int) -> UnitResult:
    """The label of the training row with the most similar counts of 8-mers of both strands; the seed is not used.

    Similarity is the cosine; of equal ones the first row of the file counts. A row that shares no 8-mer with any gets
    the frequencies on train.
    """
    started = time.perf_counter()
    dev, test = required_splits(data)
    labels = data.train.targets
    if data.scheme.kind == "classification":
        labels = np.eye(len(data.scheme.names), dtype=np.float32)[labels]
    known = _unit_kmers(data.train.table)
    scores = [_labels_of_nearest(known, labels, _frequencies(data), split.table) for split in (dev, test)]
    dev_metric = compute_metric(data.metric, dev.targets, scores[0])
    return UnitResult(scores[1], dev_metric, {"k": NEAREST_KMER}, time.perf_counter() - started)


def cnn(data: TaskData, seed: int) -> UnitResult:
    """A small convolutional network trained on train alone; the seed draws its weights, order and dropout."""
    from .cnn import fit_cnn  # torch: the names of the baselines are needed without it

    return fit_cnn(data, seed)


BASELINES: dict[str, Callable[[TaskData, int], UnitResult]] = {
    "majority": majority,
    "composition": composition,
    "kmers": kmers,
    "onehot": onehot,
    "nearest": nearest,
    "cnn": cnn,
}
SEEDED = frozenset({"cnn"})
"""Baselines that the seed changes; of the others one run is all there is."""


def _splits(data: TaskData) -> tuple[Split, Split, Split]:
    return (data.train, *required_splits(data))


def _linear(data: TaskData, measure: Callable[[Table], Any], **chosen: Any) -> UnitResult:
    started = time.perf_counter()
    choice = choose_linear(data, [measure(split.table) for split in _splits(data)])
    return _result(choice, chosen, choice.num_unconverged, started)


def _result(choice: LinearChoice, chosen: dict[str, Any], num_unconverged: int, started: float) -> UnitResult:
    chosen = {**chosen, "C": choice.strength, "unconverged_fits": num_unconverged}
    return UnitResult(choice.scores, choice.dev_metric, chosen, time.perf_counter() - started)


def _frequencies(data: TaskData) -> NDArray[np.float32]:
    """Share of each class or label on train, or the mean of each column: [columns]."""
    targets = data.train.targets
    if targets.ndim == 1:
        targets = np.eye(len(data.scheme.names))[targets]
    return targets.mean(axis=0).astype(np.float32)


def _unit_kmers(table: Table) -> Any:
    """Counts of 8-mers of both strands, scaled to length 1."""
    from sklearn.preprocessing import normalize

    return normalize(count_kmers(table, NEAREST_KMER, both_strands=True))


def _labels_of_nearest(
    known: Any, labels: NDArray[np.float32], frequencies: NDArray[np.float32], table: Table
) -> NDArray[np.float32]:
    counts, scores = _unit_kmers(table), []
    for first in range(0, len(table), TEST_ROWS_AT_ONCE):  # all pairs at once would be gigabytes
        similarity = (counts[first : first + TEST_ROWS_AT_ONCE] @ known.T).toarray()
        # Rounded: rows of equal counts must tie, however their sums were ordered.
        best = similarity.round(6).argmax(axis=1)
        is_similar = similarity.max(axis=1, keepdims=True) > 0
        scores.append(np.where(is_similar, labels[best], frequencies))
    return np.concatenate(scores).astype(np.float32)
