"""Precedence of forced boundaries, cap and guard; indexing and pooling; router basics."""

import pytest
import torch

from hnet_ntv2.chunking import (
    ChunkLimits,
    Router,
    chunk_holds,
    decide_boundaries,
    pool_chunks,
)
from hnet_ntv2.levels import BoundaryReason as Why
from tests.builders import level_of
from tests.oracles import cap_row


def decide(probability, limits=None, forced=None, lengths=None, first_base=None, num_bases=None):
    """Decide rows of probabilities; ``forced`` maps (row, position) to (decision, reason)."""
    probability = torch.as_tensor(probability, dtype=torch.float32)
    batch, length = probability.shape
    lengths = torch.tensor(lengths or [length] * batch)
    is_valid = torch.arange(length) < lengths[:, None]
    on = torch.zeros(batch, length, dtype=torch.bool)
    reason = torch.zeros(batch, length, dtype=torch.int8)
    on[:, 0], reason[:, 0] = True, Why.ROW_START
    for (row, position), (decision, code) in (forced or {}).items():
        on[row, position], reason[row, position] = decision, code
    first_base = torch.arange(length).expand(batch, length) if first_base is None else first_base
    num_bases = lengths if num_bases is None else num_bases
    level = level_of(is_valid, on, reason, first_base, num_bases)
    return decide_boundaries(probability, level, limits or ChunkLimits())


def text(chunking, row=0):
    return "".join("|" if b else "." for b in chunking.is_boundary[row])


def test_forced_decisions_win_over_the_router():
    chunking = decide([[1, 0.9, 0.1, 0.9]], forced={(0, 1): (False, Why.GRID), (0, 2): (True, Why.MASK)})
    assert text(chunking) == "|.||"
    assert chunking.reason[0].tolist() == [Why.ROW_START, Why.GRID, Why.MASK, Why.ROUTER]
    assert chunking.is_free[0].tolist() == [False, False, False, True]


def test_cap_cuts_where_the_router_did_not_and_leaves_short_chunks_alone():
    chunking = decide([[1, 0, 0, 0, 0, 0, 0, 0.9, 0, 0]], ChunkLimits(max_length=4))
    assert text(chunking) == "|...|..|.."
    assert chunking.reason[0, 4] == Why.CAP
    assert chunking.is_free[0, 4]  # the ratio loss counts it: the cap stands in for the router


def test_cap_counts_from_forced_boundaries_and_beats_forced_nothing():
    chunking = decide([[1, 0, 0, 0, 0, 0, 0, 0]], ChunkLimits(max_length=3), forced={(0, 2): (True, Why.MASK)})
    assert text(chunking) == "|.|..|.."


def test_cap_in_bases_at_an_inner_stage():
    first_base = torch.tensor([[0, 5, 9, 10, 14]])
    chunking = decide(
        [[1, 0, 0, 0, 0]], ChunkLimits(max_length=10), first_base=first_base, num_bases=torch.tensor([20])
    )
    assert text(chunking) == "|..|."  # 0-9 is 10 bases; from 10 to 20 another 10


@pytest.mark.parametrize("seed", range(5))
def test_cap_equals_the_walking_oracle(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 5, (3, 80), generator=generator)
    first_base = lengths.cumsum(1) - lengths
    probability = (torch.rand(3, 80, generator=generator) < 0.1).float()
    chunking = decide(probability, ChunkLimits(max_length=9), first_base=first_base, num_bases=lengths.sum(1))
    for row in range(3):
        wanted = [True, *(probability[row, 1:] > 0.5).tolist()]
        expected = cap_row(wanted, first_base[row].tolist(), int(lengths[row].sum()), 9)
        assert chunking.is_boundary[row].tolist() == expected


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5000001, 0.4999999])
@pytest.mark.parametrize("length", [1, 2, 7, 12, 100, 1000])
def test_guard_keeps_the_count_in_bounds_whatever_the_router_says(value, length):
    limits = ChunkLimits(0.15, 0.6, max_length=12)
    count = int(decide(torch.full((1, length), value), limits).is_boundary.sum())
    assert count >= min(length, -(-15 * length // 100))
    assert count <= max(60 * length // 100, 1)


def test_guard_flips_the_least_certain_decisions_only():
    probability = [[1, 0.9, 0.8, 0.51, 0.7, 0.99, 0.52, 0.95, 0.6, 0.85]]
    chunking = decide(probability, ChunkLimits(0.0, 0.6))
    assert text(chunking) == "|||..|.|.|"
    flipped = [i for i in range(10) if chunking.reason[0, i] == Why.GUARD]
    assert flipped == [3, 4, 6, 8]
    chunking = decide([[1, 0.1, 0.4, 0.2, 0.3, 0.0]], ChunkLimits(0.5, 1.0))
    assert text(chunking) == "|.|.|."


def test_guard_spreads_ties_over_the_row():
    chunking = decide(torch.ones(1, 1000), ChunkLimits(0.15, 0.6, max_length=12))
    kept = chunking.is_boundary[0].nonzero()[:, 0]
    assert kept.diff().max() <= 3
    assert not (chunking.reason == Why.CAP).any()


def test_guard_leaves_forced_boundaries_alone_even_above_its_limit():
    forced = {(0, i): (True, Why.MASK) for i in range(1, 9)}
    chunking = decide(torch.ones(1, 10), ChunkLimits(0.1, 0.5), forced=forced)
    assert text(chunking) == "|||||||||."


def test_guard_never_breaks_the_cap():
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(4, 300, generator=generator)
    probability[:, 100:140] = 0.0
    limits = ChunkLimits(0.05, 0.2, max_length=12)
    chunking = decide(probability, limits)
    for row in chunking.is_boundary:
        starts = torch.cat([row.nonzero()[:, 0], torch.tensor([300])])
        assert starts.diff().max() <= 12
        assert len(starts) - 1 <= 60


@pytest.mark.parametrize("seed", range(3))
def test_a_row_is_decided_alike_alone_and_padded(seed):
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(2, 200, generator=generator) ** [0.2, 1.0, 5.0][seed]
    limits = ChunkLimits(0.15, 0.6, max_length=12)
    together = decide(probability, limits, lengths=[130, 200])
    alone = decide(probability[:1, :130], limits)
    assert torch.equal(together.is_boundary[0, :130], alone.is_boundary[0])
    assert torch.equal(together.reason[0, :130], alone.reason[0])
    assert not together.is_boundary[0, 130:].any()
    assert (together.reason[0, 130:] == Why.PADDING).all()


def test_index_pool_and_flags():
    is_boundary = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0]]).bool()
    is_valid = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    index = decide(is_boundary.float(), lengths=is_valid.sum(1).tolist())
    assert index.first.tolist() == [[0, 2], [0, 0]]
    assert index.has_chunk.tolist() == [[True, True], [True, False]]
    assert index.chunk_of.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    hidden = torch.arange(8.0).reshape(2, 4, 1)
    assert pool_chunks(hidden, index)[..., 0].tolist() == [[0, 2], [4, 0]]
    flag = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    assert chunk_holds(flag, index).tolist() == [[True, False], [False, False]]


def test_beta_moves_the_probability_and_stays_within_bounds(rng):
    router = Router(8)
    hidden, mask = torch.randn(1, 50, 8, generator=rng), torch.ones(1, 50, dtype=torch.bool)
    before = router.add_offset(router.dissimilarity(hidden), mask)
    router.beta.fill_(0.3)
    after = router.add_offset(router.dissimilarity(hidden), mask)
    assert torch.allclose(after[:, 1:], (before[:, 1:] + 0.3).clamp(max=1))
    assert after[0, 0] == 1
