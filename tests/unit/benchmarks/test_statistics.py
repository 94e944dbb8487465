"""Intervals on runs whose true difference is known, and learning curves read at a level or a time."""

import math

import numpy as np
import pytest

from benchmarks.learning.statistics import bits, bits_at_time, paired_bootstrap, steps_to_reach

BLOCKS, PER_BLOCK = 40, 5
BLOCK = np.repeat(np.arange(BLOCKS), PER_BLOCK)


class World:
    """Arms whose bits per base are normal: a level, what is hard about a block or window, and luck of block and seed.

    Everything but ``gap`` is shared or has mean zero, so that ``gap`` is the true difference in bits.
    """

    def __init__(self, seed: int, num_seeds: int, gap: float = 0.0, by_seed: float = 0.0, by_block: float = 0.0):
        rng = np.random.default_rng(seed)
        self.targets = rng.integers(20, 60, size=len(BLOCK))
        difficulty = 1.9 + rng.normal(0, 0.1, size=BLOCKS)[BLOCK]
        self.b = self._nats(difficulty + rng.normal(0, 0.01, size=(num_seeds, len(BLOCK))))
        luck = rng.normal(0, by_seed, size=(num_seeds, 1)) + rng.normal(0, by_block, size=BLOCKS)[BLOCK]
        self.a = self._nats(difficulty + gap + luck + rng.normal(0, 0.01, size=(num_seeds, len(BLOCK))))

    def _nats(self, per_base: np.ndarray) -> np.ndarray:
        return per_base * self.targets * math.log(2)


@pytest.mark.parametrize(
    ("num_seeds", "by_seed", "by_block"),
    [(3, 0.01, 0.03), (3, 0.01, 0.0), (3, 0.0, 0.03), (5, 0.01, 0.01), (2, 0.01, 0.01), (1, 0.0, 0.03)],
)
def test_intervals_cover_the_truth(num_seeds, by_seed, by_block):
    worlds = [World(number, num_seeds, -0.02, by_seed, by_block) for number in range(200)]
    found = [paired_bootstrap(w.a, w.b, w.targets, BLOCK, num_draws=400) for w in worlds]
    covered = np.mean([one.low <= -0.02 <= one.high for one in found])
    assert covered >= 0.90
    # Not by being wide without end: an interval for a mean over blocks with many seeds would be about this wide.
    ideal = 1.96 * math.sqrt(by_seed**2 / num_seeds + by_block**2 / BLOCKS)
    assert np.median([one.half_width for one in found]) < (8 if num_seeds == 2 else 4) * ideal
    assert np.mean([one.estimate for one in found]) == pytest.approx(-0.02, abs=0.002)


def test_estimate_is_the_ratio_of_sums():
    world = World(0, 3, gap=0.05, by_block=0.02)
    found = paired_bootstrap(world.a, world.b, world.targets, BLOCK, num_draws=50)
    direct = (world.a.sum(axis=1) - world.b.sum(axis=1)).mean() / world.targets.sum() / math.log(2)
    assert found.estimate == pytest.approx(direct, rel=1e-12)
    assert found.low < found.estimate < found.high
    assert found.half_width == pytest.approx((found.high - found.low) / 2)
    assert (found.num_seeds, found.num_blocks) == (3, BLOCKS)


def test_block_draws_equal_drawing_the_windows_themselves():
    world, rng = World(0, 1, by_block=0.03), np.random.default_rng(1)
    found = paired_bootstrap(world.a, world.b, world.targets, BLOCK, num_draws=4000)
    gap, draws = (world.a - world.b)[0], []
    for _ in range(4000):
        chosen = np.concatenate([np.flatnonzero(one == BLOCK) for one in rng.integers(BLOCKS, size=BLOCKS)])
        draws.append(gap[chosen].sum() / world.targets[chosen].sum() / math.log(2))
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, (0.025, 0.975)), abs=0.0015)


def test_pairing_narrows_the_interval():
    world = World(0, 3, by_block=0.01)
    paired = paired_bootstrap(world.a, world.b, world.targets, BLOCK).half_width
    alone = [paired_bootstrap(arm, 0 * arm, world.targets, BLOCK).half_width for arm in (world.a, world.b)]
    assert paired < math.hypot(*alone) / 3


def test_dependent_windows_widen_the_interval():
    world = World(0, 1, by_block=0.03)
    as_blocks = paired_bootstrap(world.a, world.b, world.targets, BLOCK).half_width
    as_windows = paired_bootstrap(world.a, world.b, world.targets, np.arange(len(BLOCK))).half_width
    assert as_blocks > 1.5 * as_windows


def test_seeds_that_differ_widen_the_interval():
    alike, unlike = (World(0, 3, by_seed=by_seed, by_block=0.01) for by_seed in (0.0, 0.05))
    widths = [paired_bootstrap(w.a, w.b, w.targets, BLOCK).half_width for w in (alike, unlike)]
    assert widths[1] > 3 * widths[0]


def test_one_seed_may_be_given_as_a_row():
    world = World(0, 1, by_block=0.01)
    row = paired_bootstrap(world.a[0], world.b[0], world.targets, BLOCK)
    assert row == paired_bootstrap(world.a, world.b, world.targets, BLOCK)
    assert row.num_seeds == 1


def test_a_selection_equals_the_selected_windows():
    world = World(0, 2, by_block=0.02)
    chosen = np.random.default_rng(0).random(len(BLOCK)) < 0.3
    selected = paired_bootstrap(world.a, world.b, world.targets, BLOCK, chosen)
    alone = paired_bootstrap(world.a[:, chosen], world.b[:, chosen], world.targets[chosen], BLOCK[chosen])
    assert selected == alone


def test_draws_repeat_with_their_seed():
    world = World(0, 2, by_block=0.02)
    first, again, other = (paired_bootstrap(world.a, world.b, world.targets, BLOCK, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_what_cannot_be_compared_is_refused():
    world = World(0, 3)
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_bootstrap(world.a, world.b[:2], world.targets, BLOCK)
    with pytest.raises(ValueError, match="200 windows"):
        paired_bootstrap(world.a, world.b, world.targets[1:], BLOCK)
    with pytest.raises(ValueError, match="1 block"):
        paired_bootstrap(world.a, world.b, world.targets, BLOCK, BLOCK == 3)
    with pytest.raises(ValueError, match="no target"):
        bits(np.ones(3), np.zeros(3))


def test_bits_weigh_targets_alike():
    nats = np.array([[10 * math.log(2), 90 * math.log(2)], [0.0, 0.0]])
    assert bits(nats, np.array([10, 40])).tolist() == pytest.approx([2.0, 0.0])


def curve(*points: tuple[float, float, float]) -> list[dict[str, float]]:
    return [dict(zip(("step", "cpu_seconds", "bits"), point, strict=True)) for point in points]


CURVE = curve((0, 0, 2.2), (10, 5, 2.0), (20, 15, 1.8), (30, 20, 1.9), (40, 30, 1.7))


@pytest.mark.parametrize(
    ("level", "step"),
    [(2.2, 0), (3.0, 0), (2.1, 5), (2.0, 10), (1.9, 15), (1.8, 20), (1.75, 37.5), (1.7, 40), (1.69, None)],
)
def test_steps_to_reach(level, step):
    assert steps_to_reach(CURVE, level) == (None if step is None else pytest.approx(step))


def test_steps_to_reach_without_points_or_on_a_flat_curve():
    assert steps_to_reach([], 2.0) is None
    flat = curve((0, 0, 2.0), (10, 5, 2.0))
    assert steps_to_reach(flat, 2.0) == 0
    assert steps_to_reach(flat, 1.9) is None


@pytest.mark.parametrize(("seconds", "level"), [(-1, 2.2), (0, 2.2), (2.5, 2.1), (10, 1.9), (15, 1.8), (99, 1.7)])
def test_bits_at_time(seconds, level):
    assert bits_at_time(CURVE, seconds) == pytest.approx(level)


def test_bits_at_time_needs_a_point():
    with pytest.raises(ValueError, match="without points"):
        bits_at_time([], 1.0)
