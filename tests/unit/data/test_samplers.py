"""Which sample goes to which rank, from any position."""

import itertools

import pytest

from hnet_ntv2.data.dataset import EvaluationSampler, TrainingSampler
from hnet_ntv2.errors import ConfigError


def step(micro_batch_size: int, world_size: int, accumulation: int, start: int) -> list[int]:
    """All samples of the optimiser step at ``start``, over all ranks."""
    ranks = [
        itertools.islice(TrainingSampler(micro_batch_size, start=start, rank=rank, world_size=world_size), accumulation)
        for rank in range(world_size)
    ]
    return sorted(itertools.chain(*itertools.chain(*ranks)))


@pytest.mark.parametrize(
    ("micro_batch_size", "world_size", "accumulation"),
    [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2), (1, 8, 1), (1, 1, 8)],
)
@pytest.mark.parametrize("start", [0, 8, 800])
def test_a_step_holds_the_same_samples_however_it_is_dealt_out(micro_batch_size, world_size, accumulation, start):
    assert step(micro_batch_size, world_size, accumulation, start) == list(range(start, start + 8))


def test_ranks_take_their_micro_batches_in_turn():
    sampler = TrainingSampler(2, start=100, rank=1, world_size=3)
    assert list(itertools.islice(sampler, 3)) == [[102, 103], [108, 109], [114, 115]]


def test_a_resumed_sampler_goes_on_where_it_stopped():
    whole = list(TrainingSampler(2, stop=24, rank=1, world_size=2))
    assert whole[3:] == list(TrainingSampler(2, start=12, stop=24, rank=1, world_size=2))
    assert len(TrainingSampler(2, start=12, stop=24, rank=1, world_size=2)) == 3


def test_an_endless_sampler_has_no_length():
    with pytest.raises(TypeError, match="no length"):
        len(TrainingSampler(2))


@pytest.mark.parametrize(
    "values",
    [{"micro_batch_size": 0}, {"start": -1}, {"rank": 2, "world_size": 2}, {"stop": 7}, {"start": 8, "stop": 4}],
)
def test_a_position_that_cannot_be_is_refused(values):
    with pytest.raises(ConfigError):
        TrainingSampler(**{"micro_batch_size": 2, **values})


@pytest.mark.parametrize(
    ("num_windows", "size", "world_size"), [(10, 4, 1), (10, 4, 3), (8, 2, 2), (1, 4, 4), (5, 1, 2)]
)
def test_evaluation_shows_each_window_once_in_equal_full_batches(num_windows, size, world_size):
    ranks = [list(EvaluationSampler(num_windows, size, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    assert all(len(batch) == size for batches in ranks for batch in batches)
    shown = [number for batches in ranks for batch in batches for number in batch]
    assert sorted(number for number in shown if number >= 0) == list(range(num_windows))
    assert all(-num_windows <= number for number in shown)
