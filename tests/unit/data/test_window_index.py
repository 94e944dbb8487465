"""Tiles, skipped windows, and what is refused."""

import numpy as np
import pytest

from hnet_ntv2.data.windows import WindowIndex
from hnet_ntv2.errors import DataError, IntervalError
from hnet_ntv2.genome import SplitInterval

from .genomes import make_genome, random_bases


@pytest.fixture
def genome(tmp_path):
    # chr1: 100 N, 300 bases, 100 N; chr2: 200 bases.
    return make_genome(tmp_path, {"chr1": b"N" * 100 + random_bases(300) + b"n" * 100, "chr2": random_bases(200)})


@pytest.mark.parametrize(
    ("start", "end", "length", "tiles"),
    [
        (100, 400, 100, [100, 200, 300]),
        (100, 400, 150, [100, 250]),
        (100, 390, 100, [100, 290]),
        (100, 399, 100, [100, 299]),
        (110, 215, 100, [112]),
        (100, 200, 100, [100]),
        (100, 350, 80, [100, 185, 270]),
    ],
)
def test_tiles_fill_an_interval_and_spread_what_is_left_over(genome, start, end, length, tiles):
    index = WindowIndex.build(genome, [SplitInterval("chr1", start, end)], length)
    assert index.tile_start.tolist() == tiles


def test_mostly_n_tiles_and_short_intervals_are_left_out_and_counted(genome, caplog):
    intervals = [
        SplitInterval("chr1", 0, 500),
        SplitInterval("2", 0, 200),
        SplitInterval("chr2", 10, 60),
        SplitInterval("chr2", 0, 200, "valid"),
    ]
    index = WindowIndex.build(genome, intervals, 100)
    assert index.tile_start.tolist() == [100, 200, 300, 500, 600]
    assert (index.num_skipped_n, index.num_short_intervals, index.num_bases) == (2, 1, 700)
    assert "left out 1 intervals shorter" in caplog.text


@pytest.mark.parametrize(("share", "kept"), [(0.0, [120]), (0.4, [120]), (0.41, [20, 120]), (0.81, [20, 120])])
def test_the_largest_share_of_n_is_a_setting(tmp_path, share, kept):
    genome = make_genome(tmp_path, {"chr1": b"N" * 61 + random_bases(159)})
    index = WindowIndex.build(genome, [SplitInterval("chr1", 20, 220)], 100, share)
    assert index.tile_start.tolist() == kept


REFUSED = {
    "longer than every interval": ([("chr1", 100, 200)], 101, DataError, "longer than every train interval .*100"),
    "all n": ([("chr1", 0, 100), ("chr1", 400, 500)], 50, DataError, "all 4 windows of the train intervals"),
    "no interval of the split": ([], 50, DataError, "no interval belongs to the split 'train'"),
    "past the end": ([("chr2", 100, 201)], 50, IntervalError, "chr2:100-201 goes past"),
}


@pytest.mark.parametrize(("rows", "length", "error", "problem"), REFUSED.values(), ids=REFUSED)
def test_intervals_that_give_no_window_are_refused(genome, rows, length, error, problem):
    with pytest.raises(error, match=problem):
        WindowIndex.build(genome, [SplitInterval(*row) for row in rows], length)


def test_an_epoch_visits_every_tile_once_in_a_new_order(genome):
    # Intervals as long as the window leave no room for jitter, so that a start names its tile.
    intervals = [SplitInterval("chr1", start, start + 20) for start in range(100, 400, 20)]
    index = WindowIndex.build(genome, intervals, 20)
    orders = []
    for epoch in range(3):
        places = index.draw(np.arange(15) + 15 * epoch, seed=1)
        assert sorted(places.start.tolist()) == index.tile_start.tolist()
        assert places.epoch.tolist() == [epoch] * 15
        assert places.number.tolist() == list(range(15))
        orders.append(tuple(places.start.tolist()))
    assert len(set(orders)) == 3
    assert tuple(index.draw(np.arange(15), seed=2).start.tolist()) != orders[0]


def test_windows_move_within_half_a_window_and_reach_every_base(genome):
    index = WindowIndex.build(genome, [SplitInterval("chr1", 100, 390)], 100)
    start = index.draw(np.arange(4000), seed=0).start
    assert set(start.tolist()) == set(range(100, 151)) | set(range(240, 291))
    covered = np.zeros(500, dtype=bool)
    for first in set(start.tolist()):
        covered[first : first + 100] = True
    assert covered[100:390].all()


def test_a_move_into_n_falls_back_to_the_tile(genome):
    index = WindowIndex.build(genome, [SplitInterval("chr1", 0, 500)], 100)
    start = index.draw(np.arange(3000), seed=0).start
    assert (start == 50).any()
    num_n = genome.n_runs.count(start, start + 100)
    assert num_n.max() == 50


def test_both_strands_are_drawn_equally_often(genome):
    index = WindowIndex.build(genome, [SplitInterval("chr2", 0, 200)], 100)
    assert index.draw(np.arange(4000), seed=0).is_reverse.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("count", "chosen"), [(None, range(10)), (20, range(10)), (5, [1, 3, 5, 7, 9]), (1, [5])])
def test_an_evaluation_subset_is_spread_evenly(genome, count, chosen):
    index = WindowIndex.build(genome, [SplitInterval("chr2", 0, 200)], 20)
    assert index.evenly_spread(count).tolist() == list(chosen)
