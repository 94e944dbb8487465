"""The chunkers that can stand in the router's place: one cuts at peaks of its score, the controls learn nothing.

Each is one object from a level to a chunking, chosen by ``config.chunker``. What is forced, the cap and the guard hold
for all of them (``chunking.decide_boundaries``).
"""

import torch
from torch import nn

from .chunking import ChunkLimits, Router, decide_boundaries
from .configuration_hnet_ntv2 import HNetNTV2Config
from .levels import BoundaryReason, Chunking, Level
from .shapes import Float, Int, Tensor

# How fast p goes from 0 to 1 around the point where a score equals its greatest neighbour. Scores lie in 0..1.
_PEAK_SHARPNESS = 10.0

# Knuth's multiplicative hash: products with this odd number modulo 2^32 scatter neighbouring numbers.
_HASH_FACTOR = 2654435761
_HASHED_BASES = 4


class PeakRouter(Router):
    """A chunk begins where the router's score is the greatest among ``neighbours`` positions, itself included.

    The ratio of boundaries is about 1 / neighbours whatever the scores are, so that no offset and no ratio loss is
    needed. p = sigmoid(10 (score - greatest other score)) passes 1/2 exactly at a peak. It is a minimizer whose hash is
    learned: after an insertion or deletion it cuts as before once the neighbourhood has passed.
    """

    def __init__(self, dim: int, limits: ChunkLimits, target: float):
        super().__init__(dim, limits)
        self.neighbours = max(round(1 / target), 2)

    def decide(self, dissimilarity: Float[Tensor, "batch gaps"], level: Level) -> Chunking:
        score = nn.functional.pad(dissimilarity, (1, 0), value=1.0)
        others = greatest_neighbour(score, level, self.neighbours)
        probability = torch.sigmoid(_PEAK_SHARPNESS * (score - others)).masked_fill(~level.is_valid, 0.0)
        # 1 at a row's start, as the router has it: the smoothing of the first chunk reads it.
        probability = torch.cat([torch.ones_like(probability[:, :1]), probability[:, 1:]], dim=1)
        return decide_boundaries(probability, level, self.limits)


def greatest_neighbour(
    score: Float[Tensor, "batch positions"], level: Level, neighbours: int
) -> Float[Tensor, "batch positions"]:
    """The greatest score among the other positions of each position's neighbourhood.

    A forced boundary counts as infinitely high, so that no other is put beside it. Where none may be, as very low.
    """
    forced = level.forced_reason[..., 0] != BoundaryReason.ROUTER.value
    on = forced & level.forced_boundary[..., 0] & level.is_valid
    # Not infinity: the difference of two infinities is NaN.
    score = score.masked_fill(forced | ~level.is_valid, -1e4).masked_fill(on, 1e4)
    before, behind = (neighbours - 1) // 2, neighbours // 2
    padded = nn.functional.pad(score, (before, behind), value=-1e4)
    length = score.shape[1]
    others = [padded[:, shift : shift + length] for shift in range(neighbours) if shift != before]
    return torch.stack(others).amax(0)


class FixedChunker(nn.Module):
    """A chunker without weights: subclasses say where they want boundaries."""

    def __init__(self, limits: ChunkLimits, target: float):
        super().__init__()
        self.limits, self.target = limits, target

    def forward(self, level: Level) -> Chunking:
        probability = (self.wanted(level) & level.is_valid).float()
        probability[:, 0] = 1.0  # as the router has it: the smoothing of the first chunk reads it
        return decide_boundaries(probability, level, self.limits)

    def wanted(self, level: Level) -> Tensor:
        """[batch, positions] bool: where a boundary should be."""
        raise NotImplementedError


class Ruler(FixedChunker):
    """Boundaries at even distances: position i where floor(i x target) is one more than at i - 1."""

    def wanted(self, level: Level) -> Tensor:
        # float64: 0.3 x 10 in float32 is over 3.
        mark = (torch.arange(-1, level.is_valid.shape[1], device=level.is_valid.device).double() * self.target).floor()
        return (mark[1:] > mark[:-1]).expand(level.is_valid.shape)


class Minimizer(FixedChunker):
    """A chunk begins where the hash of the next 4 bases is the greatest among 1 / target positions: content-defined."""

    def wanted(self, level: Level) -> Tensor:
        assert level.hash is not None  # ``base_level`` fills it for this chunker
        return level.hash > greatest_neighbour(level.hash, level, max(round(1 / self.target), 2))


class NoChunker(FixedChunker):
    """No boundary but those that are forced: cap and guard alone make the chunks."""

    def wanted(self, level: Level) -> Tensor:
        return torch.zeros_like(level.is_valid)


class ShuffledRouter(Router):
    """The learned router, its scores shuffled along each row: as many boundaries, at places that mean nothing."""

    def decide(self, dissimilarity: Float[Tensor, "batch gaps"], level: Level) -> Chunking:
        # A fixed order by hash, not a random one: a row's chunks depend on the row alone.
        order = (torch.arange(dissimilarity.shape[1], device=dissimilarity.device) * _HASH_FACTOR) % (1 << 32)
        # Padding stays behind: a gap in front of an invalid position sorts last.
        order = order.expand(dissimilarity.shape).masked_fill(~level.is_valid[:, 1:], 1 << 32).argsort(1)
        return super().decide(dissimilarity.gather(1, order), level)


def hash_bases(input_ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
    """A hash within 0..1 of the 4 bases that start at each position; at a row's end of those that are left."""
    code = torch.zeros_like(input_ids)
    for offset in range(_HASHED_BASES):
        code = code * 16 + nn.functional.pad(input_ids[:, offset:], (0, offset))
    # 20 bits, so that float32 holds them exactly; a tie would make neither of two neighbours a peak.
    return ((code * _HASH_FACTOR) % (1 << 32) >> 12).float() / (1 << 20)


def build_chunker(config: HNetNTV2Config, stage: int, dim: int) -> nn.Module:
    """The chunker of a stage, counted from 0, over vectors of width ``dim``."""
    least, greatest = config.guards[stage]
    limits, target = ChunkLimits(least, greatest, config.max_chunk_length), config.target_ratios[stage]
    if config.chunker == "learned":
        return Router(dim, limits)
    if config.chunker == "shuffled":
        return ShuffledRouter(dim, limits)
    if config.chunker == "peak":
        return PeakRouter(dim, limits, target)
    # "grid" forces NTv2's tokens before any chunker is asked; what it leaves free (nothing) gets no boundary.
    return {"ruler": Ruler, "minimizer": Minimizer, "none": NoChunker, "grid": NoChunker}[config.chunker](
        limits, target
    )
