"""Counter-based draws: equal counters give equal draws, and the draws look random."""

from collections import Counter

import numpy as np
import pytest

from hnet_ntv2.data.random import Stream, below, draw_bits, permute, unit_interval, window_keys


def test_the_mixing_function_is_splitmix64():
    # The published first outputs of SplitMix64 for the seed 1234567.
    keys = np.array([1234567], dtype=np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert draw_bits(keys, np.arange(3)).tolist() == expected


def test_a_key_depends_on_each_of_its_parts():
    parts = [
        (1, 2, 3, 4),
        (2, 2, 3, 4),
        (1, 3, 3, 4),
        (1, 2, 4, 4),
        (1, 2, 3, 5),
        (1, 2, 4, 3),
        (2, 1, 3, 4),
        (-1, 2, 3, 4),
    ]
    keys = {int(window_keys(*part)[0]) for part in parts}
    assert len(keys) == len(parts)


def test_a_batch_of_keys_is_the_keys_one_by_one():
    together = window_keys(7, Stream.JITTER, np.array([0, 0, 1]), np.array([5, 6, 5]))
    alone = [window_keys(7, Stream.JITTER, epoch, window)[0] for epoch, window in ((0, 5), (0, 6), (1, 5))]
    assert together.tolist() == alone


def test_draws_are_uniform_and_stay_in_their_range():
    bits = draw_bits(window_keys(0, Stream.MASK_KIND, 0, np.arange(200))[:, None], np.arange(500))
    unit = unit_interval(bits)
    assert unit.min() >= 0
    assert unit.max() < 1
    assert abs(unit.mean() - 0.5) < 0.003
    counts = np.bincount(below(bits, 6).reshape(-1), minlength=6)
    assert len(counts) == 6
    assert np.abs(counts / counts.sum() - 1 / 6).max() < 0.005
    assert abs(np.corrcoef(unit[:, 0], unit[:, 1])[0, 1]) < 0.25


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 100, 1023, 1024, 1025])
def test_a_permutation_takes_every_value_once(size):
    for epoch in range(3):
        keys = window_keys(3, Stream.TILE_ORDER, epoch, 0)
        assert sorted(permute(np.arange(size), size, keys).tolist()) == list(range(size))


def test_every_order_of_four_things_comes_about_equally_often():
    keys = np.repeat(window_keys(1, Stream.TILE_ORDER, np.arange(2400), 0), 4)
    permuted = permute(np.tile(np.arange(4), 2400), 4, keys).reshape(2400, 4)
    orders = Counter(map(tuple, permuted.tolist()))
    assert len(orders) == 24
    assert min(orders.values()) > 55
    assert max(orders.values()) < 155
