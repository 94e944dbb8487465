"""Metrics of scores over a whole test set, their bootstrap intervals, and paired differences of two models."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError

OF_CLASSES = ("mcc", "accuracy", "f1", "auroc", "auprc")
OF_NUMBERS = ("spearman", "pearson", "r2")
FEWEST_RUNS_RESAMPLED = 3  # two runs say too little of their spread to draw from them

Scores = NDArray | Sequence[NDArray]


class Interval95(NamedTuple):
    """A value and its 95 % bootstrap percentile interval, all in units of the metric."""

    value: float
    low: float
    high: float

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is above 0: a difference is a win only then."""
        return self.low > 0


def compute_metric(name: str, targets: NDArray, scores: NDArray) -> float:
    """One metric of all rows.

    Labels and columns are scored one by one and averaged; so are classes by ``auroc`` and ``auprc`` (one against the
    rest) where there are more than two, and by ``f1`` always (macro). The class of a row is its highest score; a label
    is present from 0.5 on.

    Undefined cases: ``mcc`` is 0 where predictions or targets are constant. ``spearman`` and ``pearson`` are 0 where
    the scores are constant, since these order nothing. ``auroc`` and ``auprc`` leave out classes and labels that all or
    no rows have, and are NaN where that leaves none: no pair of rows is to be ordered. Correlations and ``r2`` are NaN
    where a column of targets is constant: there is no variance to explain.

    Args:
        name: mcc, accuracy, f1, auroc, auprc, spearman, pearson or r2.
        targets: int [rows] classes, [rows, labels] of 0 and 1, or float [rows, columns].
        scores: [rows, classes] or [rows, labels] probabilities, or [rows, columns] values.

    Raises:
        ConfigError: The metric is unknown or does not suit the targets.
        InputError: Shapes differ, there are no rows, or a score is not finite.
    """
    _check(name, targets, scores)
    return _metric_of_rows(name, targets, scores)(np.arange(len(targets)))


def metric_interval(name: str, targets: NDArray, scores: Scores, *, draws: int = 1000, seed: int = 0) -> Interval95:
    """A metric and its interval by resampling test rows; of several runs (seeds, folds) the mean.

    Args:
        name: As in ``compute_metric``.
        targets: As in ``compute_metric``.
        scores: Of one run, or a list over runs on the same rows. At least three runs are resampled too.
        draws: Bootstrap draws. Draws in which the metric is NaN are left out.
        seed: Of the draws.
    """
    return _interval(name, targets, [_runs(scores)], draws, seed)


def paired_difference(
    name: str, targets: NDArray, scores_a: Scores, scores_b: Scores, *, draws: int = 1000, seed: int = 0
) -> Interval95:
    """The metric of a minus that of b, with its interval: each draw takes the same rows for both.

    Of several runs (seeds, folds) each draw takes the mean; at least three runs are resampled too. Where a and b have
    equally many, run i of both is taken for the same seed and fold, and the same runs are drawn.

    Args:
        name: As in ``compute_metric``.
        targets: As in ``compute_metric``.
        scores_a: Of one run, or a list over runs on the same rows.
        scores_b: Likewise; the numbers of runs may differ.
        draws: Bootstrap draws. Draws in which the metric is NaN are left out.
        seed: Of the draws.
    """
    return _interval(name, targets, [_runs(scores_a), _runs(scores_b)], draws, seed)


def _check(name: str, targets: NDArray, scores: NDArray) -> None:
    if name not in OF_CLASSES + OF_NUMBERS:
        raise ConfigError(f"metric {name!r} is unknown; choose one of {', '.join(OF_CLASSES + OF_NUMBERS)}")
    if name in OF_NUMBERS and targets.ndim == 1:
        raise ConfigError(
            f"metric {name!r} is for numbers, and the targets are classes; choose {', '.join(OF_CLASSES)}"
        )
    if name in OF_CLASSES and targets.ndim == 2 and not np.isin(targets, (0, 1)).all():
        raise ConfigError(
            f"metric {name!r} is for classes, and the targets are numbers; choose {', '.join(OF_NUMBERS)}"
        )
    fits = scores.ndim == 2 and len(scores) == len(targets) and (targets.ndim == 1 or scores.shape == targets.shape)
    if not fits or not scores.size:
        raise InputError(f"scores of shape {scores.shape} do not fit targets of shape {targets.shape}")
    if targets.ndim == 1 and not 0 <= targets.min() <= targets.max() < scores.shape[1]:
        raise InputError(f"class {targets.max()} is in the targets; the scores have {scores.shape[1]} classes")
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise InputError(f"the score of row {row + 1} is {scores[row].tolist()}; scores must be finite")


def _correlate(name: str, targets: NDArray, values: NDArray) -> float:
    from scipy import stats
    from sklearn.metrics import r2_score

    if len(targets) < 2 or np.ptp(targets) == 0:
        return float("nan")
    if name == "r2":
        return float(r2_score(targets, values))
    if np.ptp(values) == 0:
        return 0.0
    # float64: pearsonr warns of near-constant float32 values that it can tell apart in float64
    pair = targets.astype(np.float64), values.astype(np.float64)
    correlation: Any = (stats.spearmanr if name == "spearman" else stats.pearsonr)(*pair)
    return float(correlation.statistic)


def _runs(scores: Scores) -> list[NDArray]:
    return [scores] if isinstance(scores, np.ndarray) else list(scores)


def _interval(name: str, targets: NDArray, models: list[list[NDArray]], draws: int, seed: int) -> Interval95:
    """The interval of the first model's mean over runs, minus the second's where there is one."""
    for scores in (scores for runs in models for scores in runs):
        _check(name, targets, scores)
    random, num_rows = np.random.default_rng(seed), len(targets)
    metrics = [[_metric_of_rows(name, targets, scores) for scores in runs] for runs in models]
    drawn_rows = (random.integers(num_rows, size=num_rows) for _ in range(draws))
    drawn = [[[metric(rows) for metric in runs] for runs in metrics] for rows in drawn_rows]
    means = _mean_over_runs(random, [np.array(runs) for runs in zip(*drawn, strict=True)])
    whole = [np.mean([metric(np.arange(num_rows)) for metric in runs]) for runs in metrics]
    differences = means[0] - means[1] if len(models) == 2 else means[0]
    differences = differences[np.isfinite(differences)].round(12)  # equal models differ by rounding, which is no win
    low, high = np.percentile(differences, (2.5, 97.5)) if len(differences) else (np.nan, np.nan)
    value = whole[0] - whole[1] if len(models) == 2 else whole[0]
    return Interval95(round(float(value), 12), float(low), float(high))


def _mean_over_runs(random: np.random.Generator, drawn: list[NDArray]) -> list[NDArray]:
    """The mean of [draws, runs] over runs for each model, over resampled runs where there are enough."""
    picks: dict[int, NDArray] = {}  # by number of runs, so that as many runs of both models are drawn as pairs
    means = []
    for values in drawn:
        num_runs = values.shape[1]
        if num_runs >= FEWEST_RUNS_RESAMPLED:
            pick = picks.setdefault(num_runs, random.integers(num_runs, size=values.shape))
            values = np.take_along_axis(values, pick, axis=1)
        means.append(values.mean(axis=1))
    return means


def _metric_of_rows(name: str, targets: NDArray, scores: NDArray) -> Callable[[NDArray], float]:
    """A function from drawn rows to their metric.

    Metrics of classes are functions of a table of counts. They are computed from it, and not by scikit-learn (which the
    tests compare them with), because a thousand draws cost 50 times less so.
    """
    if name in OF_NUMBERS:
        columns = list(zip(targets.T, scores.T, strict=True))
        return lambda rows: float(np.mean([_correlate(name, true[rows], scored[rows]) for true, scored in columns]))
    if targets.ndim == 2:
        parts = [(targets[:, label].astype(np.int64), scores[:, label]) for label in range(scores.shape[1])]
    elif name in ("auroc", "auprc"):
        classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
        parts = [((targets == label).astype(np.int64), scores[:, label]) for label in classes]
    else:
        parts = [(targets, scores)]
    metrics = [_metric_of_part(name, *part) for part in parts]

    def mean(rows: NDArray) -> float:
        values = np.array([metric(rows) for metric in metrics])
        return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")

    return mean


def _metric_of_part(name: str, targets: NDArray, scores: NDArray) -> Callable[[NDArray], float]:
    """A function from drawn rows to the metric of one label's scores [rows], or of all classes' [rows, classes]."""
    if name in ("auroc", "auprc"):
        levels, columns = np.unique(scores, return_inverse=True)
        shape = (2, len(levels))  # classes by level of score, from low to high
    elif scores.ndim == 1:
        columns, shape = (scores >= 0.5).astype(np.int64), (2, 2)
    else:
        columns, shape = scores.argmax(axis=1), (scores.shape[1],) * 2
    cells, of_counts = targets * shape[1] + columns, _OF_COUNTS[name]
    if name == "f1" and scores.ndim == 1:
        of_counts = _f1_of_presence  # the absence of a label is no class of its own
    return lambda rows: float(of_counts(np.bincount(cells[rows], minlength=shape[0] * shape[1]).reshape(shape)))


def _mcc(table: NDArray[np.int64]) -> float:
    """Gorodkin's correlation of classes [classes, predicted classes] (Comput. Biol. Chem. 2004, equation 8)."""
    rows, by_target, by_prediction = int(table.sum()), table.sum(axis=1), table.sum(axis=0)
    covariance = np.trace(table) * rows - by_target @ by_prediction
    spread = float(rows**2 - by_target @ by_target) * float(rows**2 - by_prediction @ by_prediction)
    return covariance / spread**0.5 if spread else 0.0


def _f1_by_class(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of each class, NaN where neither rows nor predictions have it."""
    used = table.sum(axis=0) + table.sum(axis=1)
    return np.where(used > 0, 2 * np.diagonal(table) / np.maximum(used, 1), np.nan)


def _f1_of_presence(table: NDArray[np.int64]) -> float:
    return np.nan_to_num(_f1_by_class(table)[1])


def _auroc(table: NDArray[np.int64]) -> float:
    """Share of pairs in the right order, ties counted half (Mann-Whitney)."""
    negative, positive = table
    pairs = negative.sum() * positive.sum()
    return (np.cumsum(negative) - negative / 2) @ positive / pairs if pairs else np.nan


def _auprc(table: NDArray[np.int64]) -> float:
    """Average precision: precision at each level of score, weighted by the recall that it adds."""
    negative, positive = table[:, ::-1]
    if not (negative.any() and positive.any()):
        return np.nan
    called = np.maximum(np.cumsum(negative + positive), 1)  # levels above all drawn rows have called none
    return np.cumsum(positive) / called @ positive / positive.sum()


_OF_COUNTS: dict[str, Callable[[NDArray[np.int64]], Any]] = {
    "mcc": _mcc,
    "accuracy": lambda table: np.trace(table) / table.sum(),
    "f1": lambda table: np.nanmean(_f1_by_class(table)),
    "auroc": _auroc,
    "auprc": _auprc,
}
