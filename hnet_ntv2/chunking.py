"""Choose chunk boundaries, keep them within bounds, and pool each chunk. Knows nothing of DNA or training.

Sources: H-Net (arXiv 2507.07955), the routing module.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from .levels import BoundaryReason, Chunking, Level
from .shapes import Bool, Float, Int, Tensor

# Multiples of it modulo 1 are spread evenly over 0..1, whatever their number.
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class ChunkLimits(NamedTuple):
    """Bounds that hold whatever the router says.

    Attributes:
        least: Fewest chunks per valid position (the guard).
        greatest: Most chunks per valid position (the guard).
        max_length: Longest chunk in bases (the cap); None for no cap.
    """

    least: float = 0.0
    greatest: float = 1.0
    max_length: int | None = None


class Router(nn.Module):
    """The learned chunker: a chunk begins where neighbours differ, p_t = (1 - cos(W_q x_{t-1}, W_k x_t)) / 2 + beta.

    Both matrices start at the identity; ``beta`` is 0 unless it was calibrated on data. H-Net, routing module.

    Args:
        dim: Width of the positions' vectors.
        limits: Guard and cap.
    """

    beta: Tensor

    def __init__(self, dim: int, limits: ChunkLimits | None = None):
        super().__init__()
        self.limits = limits or ChunkLimits()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.register_buffer("beta", torch.zeros((), dtype=torch.float32))
        self.reset_parameters()

    def _apply(self, fn, recurse: bool = True) -> "Router":
        """Move or convert the router, but keep the offset in float32 at least: bfloat16 would lose moves of 3e-4."""
        offset = self.beta
        super()._apply(fn, recurse)
        if self.beta.dtype in (torch.bfloat16, torch.float16):
            self.beta = offset.to(self.beta.device)
        return self

    def reset_parameters(self) -> None:
        """Identity matrices and no offset."""
        nn.init.eye_(self.query.weight)
        nn.init.eye_(self.key.weight)
        nn.init.zeros_(self.beta)

    def forward(self, level: Level) -> Chunking:
        """Cut a level into chunks."""
        return self.decide(self.dissimilarity(level.hidden), level)

    def dissimilarity(self, hidden: Float[Tensor, "batch positions dim"]) -> Float[Tensor, "batch gaps"]:
        """(1 - cos) / 2 of each pair of neighbours, one less than there are positions, in float32 or float64."""
        query, key = self.query(hidden[:, :-1]), self.key(hidden[:, 1:])
        # A cosine near 1 in bfloat16 has steps of 0.004, which is as wide as the decisions are apart.
        with torch.autocast(hidden.device.type, enabled=False):
            return (1 - (_unit(query) * _unit(key)).sum(-1)) / 2

    def decide(self, dissimilarity: Float[Tensor, "batch gaps"], level: Level) -> Chunking:
        """Cut a level whose dissimilarities are known. Calibration computes them once and tries many offsets."""
        return decide_boundaries(self.add_offset(dissimilarity, level.is_valid), level, self.limits)

    def add_offset(
        self, dissimilarity: Float[Tensor, "batch gaps"], is_valid: Bool[Tensor, "batch positions"]
    ) -> Float[Tensor, "batch positions"]:
        """The probability p: 1 at each row's start, which has no neighbour in front of it; 0 at padding."""
        # The offset can move p out of 0..1, where it would be no probability.
        inner = (dissimilarity + self.beta.to(dissimilarity.dtype)).clamp(0, 1)
        first = inner.new_ones(len(inner), 1)
        return torch.cat([first, inner], dim=1).masked_fill(~is_valid, 0.0)


def _unit(vectors: Tensor) -> Tensor:
    wide = vectors if vectors.dtype == torch.float64 else vectors.float()
    return nn.functional.normalize(wide, dim=-1, eps=1e-12)


@torch.compiler.disable()
def decide_boundaries(probability: Float[Tensor, "batch positions"], level: Level, limits: ChunkLimits) -> Chunking:
    """Combine what is forced on a level, the router (p > 0.5), the cap and the guard, in this order of precedence.

    The guard keeps the router's most probable boundaries: as many as the router wanted, or as many fewer or more as
    bring the number of chunks, those that the cap adds included, within the limits. Where forced boundaries and the cap
    alone exceed the upper limit, they stand and the router gets none.

    Args:
        probability: The router's p, whose gradient is kept; the decisions have none.
        level: What is cut.
        limits: Guard and cap.
    """
    is_valid = level.is_valid
    with torch.no_grad():
        forced_reason, is_forced_on = level.forced_reason[..., 0], level.is_forced_on
        is_free = (forced_reason == BoundaryReason.ROUTER.value) & is_valid
        wants = is_free & (probability > 0.5)
        cap = _Cap(level.first_base, level.num_bases, is_valid, limits.max_length)
        chosen = _guard(probability, wants, is_free, is_forced_on, is_valid, cap, limits)

        uncapped = is_forced_on | chosen
        is_boundary = uncapped | cap.added_to(uncapped)
        reason = forced_reason.masked_fill(is_free & (chosen != wants), BoundaryReason.GUARD.value)
        reason = reason.masked_fill(is_boundary & ~uncapped, BoundaryReason.CAP.value)
        reason = reason.masked_fill(~is_valid, BoundaryReason.PADDING.value)
        first, has_chunk, chunk_of = locate_chunks(is_boundary, is_valid)
    return Chunking(
        probability=probability,
        is_boundary=is_boundary,
        reason=reason,
        is_free=is_free,
        is_counted=is_free & level.is_clear,
        is_valid=is_valid,
        first_base=level.first_base,
        chunk_of=chunk_of,
        first=first,
        has_chunk=has_chunk,
    )


def _guard(
    probability: Tensor,
    wants: Tensor,
    is_free: Tensor,
    is_forced_on: Tensor,
    is_valid: Tensor,
    cap: "_Cap",
    limits: ChunkLimits,
) -> Bool[Tensor, "batch positions"]:
    """Which free positions become boundaries: those that the router wants, changed no more than the limits demand."""
    num_valid = is_valid.sum(1)
    # 1e-9 is against 0.3 x 10 rounded up to 4. These are float32, where it helps short rows only: a long one can get a
    # lower limit of one chunk more. At least one chunk, because a row of one base would have 0.6 at most.
    least = torch.ceil(num_valid * limits.least - 1e-9).long().clamp(min=1)
    greatest = torch.floor(num_valid * limits.greatest + 1e-9).long().clamp(min=1)

    def count(chosen: Tensor) -> Int[Tensor, " batch"]:
        uncapped = is_forced_on | chosen
        return (uncapped | cap.added_to(uncapped)).sum(1)

    wanted_count = count(wants)
    too_many, too_few = wanted_count > greatest, wanted_count < least
    # The usual case: ranking and counting again would only cost time.
    if not bool((too_many | too_few).any()):
        return wants

    # Each boundary more or less changes what the cap adds, so the right number cannot be computed from the counts.
    # More ranked boundaries never give fewer chunks, though: bisection finds the most that stay at or under the bound.
    rank, num_free = _rank_of_free(probability, is_free), is_free.sum(1)
    # With too few chunks: the most ranks that are still too few. One rank more is enough.
    bound = torch.where(too_few, least - 1, greatest)
    # Invariant: ``most`` ranks fit and ``excess`` do not, or are more than there are.
    most, excess = torch.full_like(num_free, -1), num_free + 1
    for _ in range(int(is_free.shape[1] + 2).bit_length()):
        middle = (most + excess) // 2
        fits = count(is_free & (rank < middle[:, None])) <= bound
        most, excess = torch.where(fits, middle, most), torch.where(fits, excess, middle)
    num_chosen = torch.where(too_few, (most + 1).minimum(num_free), most.clamp(min=0))
    return torch.where((too_many | too_few)[:, None], is_free & (rank < num_chosen[:, None]), wants)


def _rank_of_free(probability: Tensor, is_free: Tensor) -> Int[Tensor, "batch positions"]:
    """Rank of each position by falling probability, 0 for the most probable free one; equal ones in scattered order.

    A router that gives many positions the same p would otherwise get its boundaries at one end of the row.
    """
    num_positions = probability.shape[1]
    index = torch.arange(num_positions, device=probability.device)
    # float64: in float32 the fractions of large multiples collide. Any first n of this order are spread over the row.
    spread = torch.argsort((index.double() * _GOLDEN_RATIO) % 1.0)
    score = probability.masked_fill(~is_free, -1.0)[:, spread]
    order = spread[torch.argsort(score, dim=1, descending=True, stable=True)]
    return torch.empty_like(order).scatter_(1, order, index.expand_as(order))


class _Cap:
    """Finds the fewest boundaries that keep each chunk within ``max_length`` bases.

    Greedy: from a chunk's start, jump to the next boundary or as far as the cap allows, whichever is nearer; each
    landing starts a chunk. A loop over jumps would take as many steps as a row has chunks, on a GPU one kernel each, so
    all jumps are made at once and then doubled.
    """

    def __init__(self, first_base: Tensor, num_bases: Tensor, is_valid: Tensor, max_length: int | None):
        self.max_length = max_length
        self.is_valid = is_valid
        if max_length is None:
            return
        end = num_bases[:, None]
        # Padding starts where the row ends: no jump lands inside it.
        self.first_base = torch.where(is_valid, first_base, end)
        bounds = torch.cat([self.first_base, end], dim=1).contiguous()
        # The farthest position at which a chunk that starts here may end.
        self.reach = torch.searchsorted(bounds, (self.first_base + max_length).contiguous(), right=True) - 1
        self.num_bases = end

    def added_to(self, is_boundary: Bool[Tensor, "batch positions"]) -> Bool[Tensor, "batch positions"]:
        """The boundaries that must be added to these."""
        if self.max_length is None:
            return torch.zeros_like(is_boundary)
        num_positions = is_boundary.shape[1]
        index = torch.arange(num_positions, device=is_boundary.device)
        # The next boundary behind each position: a running minimum from the right.
        following = torch.where(is_boundary, index, num_positions)
        following = torch.cat([following[:, 1:], torch.full_like(following[:, :1], num_positions)], dim=1)
        following = following.flip(1).cummin(1).values.flip(1)
        step = torch.minimum(self.reach.clamp(max=num_positions), following)
        # Pointer doubling: in round i, ``step`` makes 2^i jumps, and every start less than 2^i jumps behind a boundary
        # is marked. A row of n chunks takes about log2(n) rounds. One more slot takes the jumps off the end.
        end_slot = torch.full_like(step[:, :1], num_positions)
        step = torch.cat([step, end_slot], dim=1)
        marked = torch.cat([is_boundary & self.is_valid, torch.zeros_like(is_boundary[:, :1])], dim=1)
        while True:
            landed = torch.zeros_like(step).scatter_reduce_(1, step, marked.long(), "amax")
            grown = marked | (landed > 0)
            grown[:, -1] = False
            if torch.equal(grown, marked):
                break
            marked, step = grown, step.gather(1, step)
        return marked[:, :-1] & ~is_boundary & self.is_valid


def locate_chunks(
    is_boundary: Bool[Tensor, "batch positions"], is_valid: Bool[Tensor, "batch positions"]
) -> tuple[Int[Tensor, "batch chunks"], Bool[Tensor, "batch chunks"], Int[Tensor, "batch positions"]]:
    """``first``, ``has_chunk`` and ``chunk_of`` of a ``Chunking``.

    There are as many slots as the row with most chunks needs, and at least one.

    Args:
        is_boundary: Whether a chunk begins at a position.
        is_valid: False at padding.
    """
    is_boundary = is_boundary & is_valid
    counts = is_boundary.sum(1)
    num_slots = max(int(counts.max()), 1)
    chunk_of = is_boundary.long().cumsum(1) - 1
    index = torch.arange(is_boundary.shape[1], device=is_boundary.device).expand_as(chunk_of)
    # Positions that begin no chunk are sent to one slot more, which is thrown away.
    slot = torch.where(is_boundary, chunk_of, num_slots)
    first = torch.zeros(len(counts), num_slots + 1, dtype=torch.long, device=slot.device).scatter_(1, slot, index)
    has_chunk = torch.arange(num_slots, device=slot.device) < counts[:, None]
    return first[:, :-1].masked_fill(~has_chunk, 0), has_chunk, chunk_of.clamp(min=0).masked_fill(~is_valid, 0)


def pool_chunks(hidden: Float[Tensor, "batch positions dim"], chunking: Chunking) -> Float[Tensor, "batch chunks dim"]:
    """The vector at each chunk's first position; zeros in unused slots."""
    pooled = hidden.gather(1, chunking.first[..., None].expand(-1, -1, hidden.shape[-1]))
    return pooled * chunking.has_chunk[..., None]


def chunk_holds(flag: Bool[Tensor, "batch positions"], chunking: Chunking) -> Bool[Tensor, "batch chunks"]:
    """Whether any position of each chunk has the flag (padding must not have it)."""
    holds = torch.zeros_like(chunking.has_chunk, dtype=torch.long)
    return holds.scatter_reduce(1, chunking.chunk_of, flag.long(), "amax") > 0


def pool_level(level: Level, chunking: Chunking) -> Level:
    """The next level, whose positions are this one's chunks; one stage less is left of what is forced."""
    first = chunking.first
    wide = first[..., None].expand(-1, -1, level.forced_reason.shape[-1])
    return Level(
        hidden=pool_chunks(level.hidden, chunking),
        is_valid=chunking.has_chunk,
        first_base=level.first_base.gather(1, first),
        num_bases=level.num_bases,
        is_masked=chunk_holds(level.is_masked, chunking),
        is_clear=level.is_clear.gather(1, first),
        forced_boundary=level.forced_boundary.gather(1, wide)[..., 1:],
        forced_reason=level.forced_reason.gather(1, wide)[..., 1:],
        score=None if level.score is None else level.score.gather(1, first),
    )
