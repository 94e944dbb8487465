"""The two records that the network works on: a level (a row of positions) and a chunking (its boundaries).

A *position* is a base at the outermost level, a stage-1 chunk at the next one, and so on; the positions of the
innermost level are the final chunks, which the trunk sees. Each stage of chunking turns one level into the next.
"""

from enum import IntEnum
from typing import NamedTuple

from .shapes import Bool, Float, Int, Tensor


class BoundaryReason(IntEnum):
    """Who decided whether a chunk begins at a position."""

    ROUTER = 0
    ROW_START = 1
    MASK = 2
    GRID = 3
    ANCHOR = 4
    CAP = 5
    GUARD = 6
    PADDING = 7


class Level(NamedTuple):
    """A row of positions at one resolution. Rows are right-padded to a common number of positions.

    Attributes:
        hidden: [batch, positions, dim] their vectors.
        is_valid: [batch, positions] False at padding.
        first_base: [batch, positions] index of the base at which a position starts.
        num_bases: [batch] valid bases of each row: where its last position ends.
        is_masked: [batch, positions] the position holds a [MASK].
        is_clear: [batch, positions] neither the k-mer that starts here nor the one before it holds a [MASK]: the router
            sees what it would see on the sequence without masks.
        forced_boundary: [batch, positions, stages] decisions that are not the router's to make, this stage first, then
            the inner ones. Meaningful where ``forced_reason`` is not ``ROUTER``.
        forced_reason: [batch, positions, stages] ``BoundaryReason`` of these decisions; ``ROUTER`` where it is free.
        score: [batch, positions] what chunkers that read the bases compare (``chunkers.ScorePeaks``), at a position's
            first base; None without them.
        tail: [batch, positions, tail_dim] further coordinates, where the inner network is wider than this level.
    """

    hidden: Float[Tensor, "batch positions dim"]
    is_valid: Bool[Tensor, "batch positions"]
    first_base: Int[Tensor, "batch positions"]
    num_bases: Int[Tensor, " batch"]
    is_masked: Bool[Tensor, "batch positions"]
    is_clear: Bool[Tensor, "batch positions"]
    forced_boundary: Bool[Tensor, "batch positions stages"]
    forced_reason: Int[Tensor, "batch positions stages"]
    tail: Float[Tensor, "batch positions tail_dim"] | None = None
    score: Float[Tensor, "batch positions"] | None = None

    @property
    def is_forced_on(self) -> Bool[Tensor, "batch positions"]:
        """Whether a chunk of this stage must begin at a position, whatever the router says."""
        is_forced = self.forced_reason[..., 0] != BoundaryReason.ROUTER.value
        return is_forced & self.forced_boundary[..., 0] & self.is_valid


class Chunking(NamedTuple):
    """The decisions on one level: where chunks begin, why, and which positions they hold.

    Attributes:
        probability: [batch, positions] the router's boundary probability p, float32 or better; 1 at row starts, 0 at
            padding.
        is_boundary: [batch, positions] a chunk begins here: the final decision.
        reason: [batch, positions] ``BoundaryReason`` of the final decision.
        is_free: [batch, positions] the decision was the router's to make (before cap and guard).
        is_counted: [batch, positions] free, and clear of masks: the ratio loss counts these (docs/decisions/0010).
        is_valid: [batch, positions] False at padding.
        first_base: [batch, positions] index of the base at which a position starts.
        chunk_of: [batch, positions] index of the chunk that a position belongs to; 0 at padding.
        first: [batch, chunks] position at which each chunk begins; 0 in unused slots.
        has_chunk: [batch, chunks] the slot is in use: rows have different numbers of chunks.
    """

    probability: Float[Tensor, "batch positions"]
    is_boundary: Bool[Tensor, "batch positions"]
    reason: Int[Tensor, "batch positions"]
    is_free: Bool[Tensor, "batch positions"]
    is_counted: Bool[Tensor, "batch positions"]
    is_valid: Bool[Tensor, "batch positions"]
    first_base: Int[Tensor, "batch positions"]
    chunk_of: Int[Tensor, "batch positions"]
    first: Int[Tensor, "batch chunks"]
    has_chunk: Bool[Tensor, "batch chunks"]

    @property
    def achieved_ratio(self) -> Float[Tensor, ""]:
        """Chunks per valid position over the whole batch, forced boundaries included."""
        return self.is_boundary.sum() / self.is_valid.sum()


def final_chunk_of(chunkings: tuple[Chunking, ...]) -> Int[Tensor, "batch length"]:
    """Index of the final chunk that each base belongs to. Chunkings are given outermost first."""
    chunk_of = chunkings[0].chunk_of
    for chunking in chunkings[1:]:
        chunk_of = chunking.chunk_of.gather(1, chunk_of)
    return chunk_of


def final_boundaries(chunkings: tuple[Chunking, ...]) -> Bool[Tensor, "batch length"]:
    """Whether each base begins a final chunk. Chunkings are given outermost first."""
    is_boundary, position = chunkings[0].is_boundary, chunkings[0].chunk_of
    for chunking in chunkings[1:]:
        is_boundary = is_boundary & chunking.is_boundary.gather(1, position)
        position = chunking.chunk_of.gather(1, position)
    return is_boundary
