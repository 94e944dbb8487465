"""Windows: each base is kept once and with context, the plan is the same for both strands, batches stay in bounds."""

import sys
from itertools import pairwise

import numpy as np
import pytest

from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.inference.windows import (
    _BATCHES_PER_BLOCK,
    Piece,
    Window,
    batches_by_length,
    checked_flank,
    default_window,
    group_sequences,
    pad_rows,
    plan_windows,
    window_blocks,
)
from hnet_ntv2.resources import bundled_model
from tests.builders import tiny_config


@pytest.mark.parametrize(("window", "flank"), [(5, 1), (16, 4), (17, 4), (40, 12), (64, 1)])
def test_plan_keeps_every_base_once_with_context_and_is_its_own_mirror_image(window, flank):
    for length in [*range(1, 300), 1000, 1001]:
        plan = list(plan_windows(length, window, flank))
        assert [plan[0].keep_start, plan[-1].keep_end] == [0, length]
        assert all(one.keep_end == other.keep_start for one, other in pairwise(plan))
        for each in plan:
            assert 0 <= each.start <= each.keep_start < each.keep_end <= each.end <= length
            assert each.end - each.start <= window
            assert each.start == 0 or each.keep_start - each.start >= flank
            assert each.end == length or each.end - each.keep_end >= flank
        mirrored = [Window(length - e, length - s, length - ke, length - ks) for s, e, ks, ke in reversed(plan)]
        assert mirrored == plan


def test_a_short_sequence_is_one_window():
    assert list(plan_windows(100, 100, 10)) == [Window(0, 100, 0, 100)]


@pytest.mark.parametrize(("window", "flank", "batch"), [(100, 0, 1), (22, 10, 1), (100, 10, 0)])
def test_sizes_that_keep_nothing_are_refused(window, flank, batch):
    with pytest.raises(ConfigError, match=r"flank=0|window=22 with flank=10|batch_bases=0"):
        checked_flank(window, flank, batch)
    assert [checked_flank(window, None) for window in (5, 160, 6144)] == [1, 20, 512]


def test_the_default_window_is_the_length_of_training():
    assert default_window(tiny_config(training_length=768)) == 768
    assert default_window(tiny_config()) == 6144
    assert HNetNTV2Config.from_pretrained(bundled_model()).training_length == 768


def test_windows_of_a_chromosome_are_not_made_at_once():
    plan = plan_windows(250_000_000, 768, 96)
    assert next(plan) == Window(0, 768, 0, 670)
    assert sys.getsizeof(plan) < 1000


def test_blocks_are_whole_batches_and_do_not_look_ahead():
    num_asked = 0

    def lengths():
        nonlocal num_asked
        for length in (3000, 30, 70, 100):
            num_asked += 1
            yield length

    blocks = window_blocks(lengths(), window=100, flank=10, batch_bases=350)
    first = next(blocks)
    assert (len(first), num_asked) == (3 * _BATCHES_PER_BLOCK, 1)
    pieces = [*first, *(piece for block in blocks for piece in block)]
    assert pieces == [
        Piece(index, each) for index, length in enumerate((3000, 30, 70, 100)) for each in plan_windows(length, 100, 10)
    ]


def test_batches_hold_rows_of_similar_length_within_bounds():
    lengths = [5, 100, 7, 30, 100, 31, 6]
    batches = list(batches_by_length(lengths, 100))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert batches == [[1], [4], [5, 3, 2], [6, 0]]
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 100 for batch in batches)


def test_groups_keep_the_order_and_bound_memory():
    class Some:
        def __init__(self, length):
            self.bases = np.zeros(length, np.uint8)

    groups = list(group_sequences(map(Some, [20, 20, 1, 40, 3]), batch_bases=1))
    assert [[len(each.bases) for each in group] for group in groups] == [[20, 20], [1, 40], [3]]


def test_rows_are_padded_and_soft_masks_dropped():
    import torch

    rows = pad_rows([np.array([7, 0x80 | 8], np.uint8), np.array([9, 10, 11], np.uint8)], torch.device("cpu"))
    assert rows.tolist() == [[7, 8, 4], [9, 10, 11]]
