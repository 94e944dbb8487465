"""Differences between arms with 95 % intervals, and the steps a learning curve takes to a level."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Curve = Sequence[Mapping[str, float]]

_NORMAL = 1.959964
# Student's t at 97.5 %, for 1 to 10 degrees of freedom.
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


class Difference(NamedTuple):
    """Bits per masked base of one arm less those of another; negative where the first is better.

    Attributes:
        estimate: On the windows and seeds that were run.
        low: Lower end of the 95 % interval.
        high: Upper end.
        half_width: Half of ``high - low``.
        num_seeds: Pairs of runs; with one the interval covers the choice of windows only.
        num_blocks: Blocks with a target.
    """

    estimate: float
    low: float
    high: float
    half_width: float
    num_seeds: int
    num_blocks: int


def difference_cell(found: Mapping[str, Any] | None, digits: int = 4) -> str:
    """A table's cell: estimate and interval, a star where one seed was run; empty where nothing was found.

    Args:
        found: A ``Difference`` as a mapping.
        digits: Behind the point.
    """
    if found is None:
        return ""
    estimate, low, high = (f"{found[name]:+.{digits}f}" for name in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]" + ("*" if found["num_seeds"] == 1 else "")


def bits(nats: NDArray, targets: NDArray) -> NDArray[np.float64]:
    """Cross-entropy in bits per masked base, every target weighing the same.

    Args:
        nats: Summed cross-entropy of each window in nats, [..., windows].
        targets: Masked bases of each window, [windows].

    Returns:
        sum of nats / sum of targets / ln 2, [...].

    Raises:
        ValueError: if there is no target.
    """
    if not (total := np.sum(targets)) > 0:
        raise ValueError("the windows hold no target; there are no bits per base")
    return np.sum(nats, axis=-1) / total / math.log(2)


def paired_bootstrap(
    runs_a: NDArray,
    runs_b: NDArray,
    targets: NDArray,
    block: NDArray,
    selection: NDArray | None = None,
    num_draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """Difference in bits per masked base between two arms, a - b, with a 95 % interval over windows and seeds.

    A repetition would have other windows and other seeds, so both are resampled:

    * Windows. Neighbours share repeats and composition, so whole blocks are drawn with replacement (Kuensch 1989;
      blocks that do not overlap: Carlstein 1986), the same ones for both arms and all seeds. The value of a draw is the
      ratio of summed nats to summed targets (the ratio estimator; Cochran 1977, chapter 6).
    * Seeds. Two runs of one arm differ in weights and order of data. Without this level the interval would hold for
      these runs, not for the arm. Row s of both arms is one pair, drawn together. Seeds and windows are crossed, so
      they are drawn independently and their deviations are added (Owen 2007).

    A few seeds understate their own spread: resampling n values gives (n-1)/n of the variance (Rao and Wu 1988), and
    the normal's tails are too thin for a spread estimated from n values. So the deviations of the seeds are multiplied
    by sqrt(n/(n-1)) and by the ratio of Student's t (n-1 degrees of freedom) to the normal quantile: 2.7 for three
    seeds, 9 for two. With one pair only blocks are drawn, and the interval holds for these two runs.

    Args:
        runs_a: Summed cross-entropy in nats, [seeds, windows].
        runs_b: The other arm, [seeds, windows]; the same row is the same seed.
        targets: Masked bases of each window, common to all runs, [windows].
        block: Id of the block each window lies in, [windows].
        selection: True for the windows that count; None for all, [windows].
        num_draws: Bootstrap draws.
        seed: Of the draws.

    Raises:
        ValueError: if shapes do not fit, or fewer than two blocks hold a target.
    """
    if np.shape(runs_a) != np.shape(runs_b):
        raise ValueError(f"arms of shapes {np.shape(runs_a)} and {np.shape(runs_b)} cannot be paired")
    gap = np.atleast_2d(np.asarray(runs_a, np.float64) - np.asarray(runs_b, np.float64))
    if not gap.shape[1:] == np.shape(targets) == np.shape(block):
        raise ValueError(f"{gap.shape[1]} windows, but {np.shape(targets)} targets and {np.shape(block)} block ids")
    keep = np.asarray(targets) > 0  # a block without targets could be drawn, but has no bits
    if selection is not None:
        keep = keep & np.asarray(selection, bool)
    nats, counts = _block_sums(gap[:, keep], np.asarray(targets)[keep], np.asarray(block)[keep])
    num_seeds, num_blocks = nats.shape
    if num_blocks < 2:
        raise ValueError(f"{num_blocks} block(s) with a target: windows of one block say nothing about their spread")
    per_seed = bits(nats, counts)
    rng = np.random.default_rng(seed)
    # The mean over seeds: blocks are common to all seeds, so one draw of blocks holds for all of them.
    draws = _draw_blocks(nats.mean(axis=0), counts, num_draws, rng)
    if num_seeds > 1:
        draws = draws + _draw_seeds(per_seed, num_draws, rng)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Difference(
        float(per_seed.mean()), float(low), float(high), float(high - low) / 2, int(num_seeds), int(num_blocks)
    )


def _block_sums(nats: NDArray, targets: NDArray, block: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nats [seeds, blocks] and targets [blocks] of each block."""
    ids, place = np.unique(block, return_inverse=True)
    sums = [np.bincount(place, weights=row, minlength=len(ids)).astype(np.float64) for row in (*nats, targets)]
    return np.stack(sums[:-1]), sums[-1]


def _draw_blocks(nats: NDArray, targets: NDArray, num_draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Bits per base of blocks drawn with replacement, [draws]."""
    # The counts of a draw with replacement are multinomial: one matrix product serves all draws.
    weights = rng.multinomial(len(targets), np.full(len(targets), 1 / len(targets)), size=num_draws)
    return (weights @ nats) / (weights @ targets) / math.log(2)


def _draw_seeds(per_seed: NDArray, num_draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Deviations of the mean over seeds drawn with replacement, stretched for their small number, [draws]."""
    num = len(per_seed)
    shares = rng.multinomial(num, np.full(num, 1 / num), size=num_draws) / num
    stretch = math.sqrt(num / (num - 1)) * _student(num - 1) / _NORMAL
    return stretch * (shares @ (per_seed - per_seed.mean()))


def _student(freedom: int) -> float:
    """97.5 % quantile of Student's t; beyond the table the first terms of Abramowitz and Stegun 26.7.5."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    return _NORMAL + 2.3723 / freedom + 2.8225 / freedom**2


def steps_to_reach(curve: Curve, bits: float) -> float | None:
    """First step at which a learning curve is down to ``bits``, on straight lines between the recorded points.

    Args:
        curve: Points with "step" and "bits", in the order of the steps.
        bits: Level to reach, bits per masked base.

    Returns:
        The step, with a fraction; None if the curve stays above.
    """
    before: Mapping[str, float] | None = None
    for point in curve:
        if point["bits"] <= bits:
            if before is None:
                return float(point["step"])
            way = (before["bits"] - bits) / (before["bits"] - point["bits"])
            return before["step"] + way * (point["step"] - before["step"])
        before = point
    return None


def steps_to_stay(curve: Curve, bits: float) -> float | None:
    """Step from which a learning curve stays at or below ``bits``, on straight lines between the recorded points.

    Args:
        curve: Points with "step" and "bits", in the order of the steps.
        bits: Level, bits per masked base.

    Returns:
        The step, with a fraction; None if the curve ends above.
    """
    # A curve can dip below the level and rise again: only what follows its last point above counts.
    above = [number for number, point in enumerate(curve) if point["bits"] > bits]
    if not above:
        return float(curve[0]["step"])
    if above[-1] == len(curve) - 1:
        return None
    return steps_to_reach(curve[above[-1] :], bits)


def bits_at_time(curve: Curve, cpu_seconds: float) -> float:
    """Bits per masked base when that much CPU time of training was spent, on straight lines between the points.

    Before the first and after the last point the curve is held, never continued.

    Args:
        curve: Points with "cpu_seconds" and "bits", in the order of time.
        cpu_seconds: CPU time of training.

    Raises:
        ValueError: if the curve has no point.
    """
    if not curve:
        raise ValueError("a curve without points has no value at any time")
    return float(np.interp(cpu_seconds, [point["cpu_seconds"] for point in curve], [point["bits"] for point in curve]))
