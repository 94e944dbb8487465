"""Choose chunk boundaries, keep them within bounds, and pool each chunk. Knows nothing of DNA or training.

Sources: H-Net (arXiv 2507.07955), equations of the routing module and of the ratio loss.
"""

import math
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import nn

from .shapes import Bool, Float, Int, Tensor

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class BoundaryReason(IntEnum):
    """Who decided about a position."""

    ROUTER = 0
    ROW_START = 1
    MASK = 2
    GRID = 3
    ANCHOR = 4
    CAP = 5
    GUARD = 6
    PADDING = 7


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


class Routing(NamedTuple):
    """The decisions at one resolution. All fields are [batch, positions].

    Attributes:
        probability: The router's boundary probability p, float32 or better; 1 at row starts, 0 at padding.
        is_boundary: The final decision.
        reason: ``BoundaryReason`` of the final decision.
        is_free: The decision was the router's to make (before cap and guard).
    """

    probability: Float[Tensor, "batch positions"]
    is_boundary: Bool[Tensor, "batch positions"]
    reason: Int[Tensor, "batch positions"]
    is_free: Bool[Tensor, "batch positions"]


class ChunkIndex(NamedTuple):
    """Where chunks lie among the positions of a padded batch.

    Attributes:
        first: [batch, chunks] position of each chunk's first element; 0 in unused slots.
        has_chunk: [batch, chunks] slot is in use.
        chunk_of: [batch, positions] chunk that a position belongs to; 0 at padding.
    """

    first: Int[Tensor, "batch chunks"]
    has_chunk: Bool[Tensor, "batch chunks"]
    chunk_of: Int[Tensor, "batch positions"]


class Router(nn.Module):
    """Boundary probability from the dissimilarity of neighbours, p_t = (1 - cos(W_q x_{t-1}, W_k x_t)) / 2 + beta.

    Both matrices start at the identity; ``beta`` is 0 unless it was calibrated on data. H-Net, routing module.
    """

    beta: Tensor

    def __init__(self, dim: int):
        super().__init__()
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

    def forward(
        self, hidden: Float[Tensor, "batch positions dim"], is_valid: Bool[Tensor, "batch positions"]
    ) -> Float[Tensor, "batch positions"]:
        """Return p in float32 (float64 for float64 input); the constant 1 at each row's start, 0 at padding."""
        return self.shift(self.dissimilarity(hidden), is_valid)

    def dissimilarity(self, hidden: Float[Tensor, "batch positions dim"]) -> Float[Tensor, "batch gaps"]:
        """What p is between neighbours without an offset, one less than there are positions."""
        query, key = self.query(hidden[:, :-1]), self.key(hidden[:, 1:])
        with torch.autocast(hidden.device.type, enabled=False):
            return (1 - (_unit(query) * _unit(key)).sum(-1)) / 2

    def shift(
        self, dissimilarity: Float[Tensor, "batch gaps"], is_valid: Bool[Tensor, "batch positions"]
    ) -> Float[Tensor, "batch positions"]:
        """Add the offset; see ``forward``."""
        inner = (dissimilarity + self.beta.to(dissimilarity.dtype)).clamp(0, 1)
        first = inner.new_ones(len(inner), 1)
        return torch.cat([first, inner], dim=1).masked_fill(~is_valid, 0.0)


def _unit(vectors: Tensor) -> Tensor:
    wide = vectors if vectors.dtype == torch.float64 else vectors.float()
    return nn.functional.normalize(wide, dim=-1, eps=1e-12)


@torch.compiler.disable()
@torch.no_grad()
def decide_boundaries(
    probability: Float[Tensor, "batch positions"],
    is_valid: Bool[Tensor, "batch positions"],
    forced_boundary: Bool[Tensor, "batch positions"],
    forced_reason: Int[Tensor, "batch positions"],
    first_base: Int[Tensor, "batch positions"],
    num_bases: Int[Tensor, " batch"],
    limits: ChunkLimits,
) -> Routing:
    """Combine forced decisions, the router (p > 0.5), the cap and the guard, in this order of precedence.

    The guard keeps the router's most probable boundaries: as many as the router wanted, or as many fewer or more as
    bring the number of chunks, those that the cap adds included, within the limits. Where forced boundaries and the cap
    alone exceed the upper limit, they stand and the router gets none.

    Args:
        probability: The router's p.
        is_valid: False at (right) padding.
        forced_boundary: Forced decision, where ``forced_reason`` is not ``ROUTER``.
        forced_reason: ``BoundaryReason`` per position.
        first_base: Index of the base at which each position starts.
        num_bases: Bases in each row, the end of the last chunk.
        limits: Guard and cap.
    """
    is_free = (forced_reason == BoundaryReason.ROUTER) & is_valid
    is_forced_on = forced_boundary & is_valid & ~is_free
    wants = is_free & (probability > 0.5)
    cap = _Cap(first_base, num_bases, is_valid, limits.max_length)
    chosen = _guard(probability, wants, is_free, is_forced_on, is_valid, cap, limits)

    uncapped = is_forced_on | chosen
    is_boundary = uncapped | cap.added_to(uncapped)
    reason = forced_reason.masked_fill(is_free & (chosen != wants), BoundaryReason.GUARD)
    reason = reason.masked_fill(is_boundary & ~uncapped, BoundaryReason.CAP)
    return Routing(probability, is_boundary, reason.masked_fill(~is_valid, BoundaryReason.PADDING), is_free)


def _guard(
    probability: Tensor,
    wants: Tensor,
    is_free: Tensor,
    is_forced_on: Tensor,
    is_valid: Tensor,
    cap: "_Cap",
    limits: ChunkLimits,
) -> Bool[Tensor, "batch positions"]:
    """The free positions that become boundaries, as near to what the router wants as the limits allow."""
    num_valid = is_valid.sum(1)
    # 1e-9 keeps 0.3 x 10 from becoming 4 chunks at least through rounding.
    least = torch.ceil(num_valid * limits.least - 1e-9).long().clamp(min=1)
    greatest = torch.floor(num_valid * limits.greatest + 1e-9).long().clamp(min=1)

    def count(chosen: Tensor) -> Int[Tensor, " batch"]:
        uncapped = is_forced_on | chosen
        return (uncapped | cap.added_to(uncapped)).sum(1)

    wanted_count = count(wants)
    too_many, too_few = wanted_count > greatest, wanted_count < least
    if not bool((too_many | too_few).any()):
        return wants

    # More ranked positions never give fewer chunks, so bisection finds the most that stay at or under a bound.
    rank, num_free = _rank_of_free(probability, is_free), is_free.sum(1)
    bound = torch.where(too_few, least - 1, greatest)
    most, excess = torch.full_like(num_free, -1), num_free + 1
    for _ in range(int(is_free.shape[1] + 2).bit_length()):
        middle = (most + excess) // 2
        fits = count(is_free & (rank < middle[:, None])) <= bound
        most, excess = torch.where(fits, middle, most), torch.where(fits, excess, middle)
    num_chosen = torch.where(too_few, (most + 1).minimum(num_free), most.clamp(min=0))
    return torch.where((too_many | too_few)[:, None], is_free & (rank < num_chosen[:, None]), wants)


def _rank_of_free(probability: Tensor, is_free: Tensor) -> Int[Tensor, "batch positions"]:
    """Rank 0 is the most probable free position; equal ones are taken evenly spread, not from one end."""
    num_positions = probability.shape[1]
    index = torch.arange(num_positions, device=probability.device)
    spread = torch.argsort((index.double() * _GOLDEN_RATIO) % 1.0)
    score = probability.masked_fill(~is_free, -1.0)[:, spread]
    order = spread[torch.argsort(score, dim=1, descending=True, stable=True)]
    return torch.empty_like(order).scatter_(1, order, index.expand_as(order))


class _Cap:
    """Adds the fewest boundaries that keep each chunk within ``max_length`` bases, greedily from its first base."""

    def __init__(self, first_base: Tensor, num_bases: Tensor, is_valid: Tensor, max_length: int | None):
        self.max_length = max_length
        self.is_valid = is_valid
        if max_length is None:
            return
        end = num_bases[:, None]
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
        following = torch.where(is_boundary, index, num_positions)
        following = torch.cat([following[:, 1:], torch.full_like(following[:, :1], num_positions)], dim=1)
        following = following.flip(1).cummin(1).values.flip(1)
        step = torch.minimum(self.reach.clamp(max=num_positions), following)
        # Pointer doubling: after i rounds, every start that is less than 2^i jumps behind a boundary is marked.
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


def index_chunks(is_boundary: Bool[Tensor, "batch positions"], is_valid: Bool[Tensor, "batch positions"]) -> ChunkIndex:
    """Number the chunks of each row; the number of slots is the largest count in the batch (at least one)."""
    is_boundary = is_boundary & is_valid
    counts = is_boundary.sum(1)
    num_slots = max(int(counts.max()), 1)
    chunk_of = is_boundary.long().cumsum(1) - 1
    index = torch.arange(is_boundary.shape[1], device=is_boundary.device).expand_as(chunk_of)
    slot = torch.where(is_boundary, chunk_of, num_slots)
    first = torch.zeros(len(counts), num_slots + 1, dtype=torch.long, device=slot.device).scatter_(1, slot, index)
    has_chunk = torch.arange(num_slots, device=slot.device) < counts[:, None]
    return ChunkIndex(
        first[:, :-1].masked_fill(~has_chunk, 0), has_chunk, chunk_of.clamp(min=0).masked_fill(~is_valid, 0)
    )


def pool_chunks(hidden: Float[Tensor, "batch positions dim"], index: ChunkIndex) -> Float[Tensor, "batch chunks dim"]:
    """The vector at each chunk's first position; zeros in unused slots."""
    pooled = hidden.gather(1, index.first[..., None].expand(-1, -1, hidden.shape[-1]))
    return pooled * index.has_chunk[..., None]


def chunk_holds(flag: Bool[Tensor, "batch positions"], index: ChunkIndex) -> Bool[Tensor, "batch chunks"]:
    """Whether any position of each chunk has the flag (padding must not have it)."""
    holds = torch.zeros_like(index.has_chunk, dtype=torch.long)
    return holds.scatter_reduce(1, index.chunk_of, flag.long(), "amax") > 0


def ratio_loss(
    share: Float[Tensor, "*shape"], mean_probability: Float[Tensor, "*shape"], target: float
) -> Float[Tensor, "*shape"]:
    """H-Net's ratio loss F G / a + (1 - F)(1 - G) / (1 - a): 1 at F = G = a.

    Args:
        share: F, share of boundaries (no gradient).
        mean_probability: G, mean boundary probability.
        target: a, the wanted share; H-Net's N is 1 / a.
    """
    return share * mean_probability / target + (1 - share) * (1 - mean_probability) / (1 - target)


def mean_over_counted(
    values: Float[Tensor, "batch positions"], is_counted: Bool[Tensor, "batch positions"], when_none: float
) -> Float[Tensor, " batch"]:
    """Mean per row over the positions that count; ``when_none`` for rows without any."""
    count = is_counted.sum(1)
    total = (values * is_counted).sum(1)
    return torch.where(count > 0, total / count.clamp(min=1), torch.full_like(total, when_none))
