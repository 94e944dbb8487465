"""The chunkers that can stand in the router's place: one cuts at peaks of its score, the controls learn nothing.

Each is one object from a level to a chunking, chosen by ``config.chunker``. What is forced, the cap and the guard hold
for all of them (``chunking.decide_boundaries``).
"""

from collections.abc import Iterable

import torch
from torch import nn

from .chunking import ChunkLimits, Router, decide_boundaries
from .configuration_hnet_ntv2 import HNetNTV2Config
from .errors import ConfigError
from .kmers import kmer_codes, kmer_digits, reverse_complement, run_length_right
from .levels import BoundaryReason, Chunking, Level
from .shapes import Float, Int, Tensor
from .vocabulary import is_clean_base

# How fast p goes from 0 to 1 around the point where a score equals its greatest neighbour. Scores lie in 0..1.
_PEAK_SHARPNESS = 10.0

# A score this little above its neighbours is no peak. In repeats scores are equal but for rounding, which differs with
# the batch and would cut there at random; the cap cuts them instead.
_LEAST_RISE = 1e-5

# Knuth's multiplicative hash: products with this odd number modulo 2^32 scatter neighbouring numbers.
_HASH_FACTOR = 2654435761
_HASHED_BASES = 4

# Added to each count of a base behind a k-mer: k-mers that were hardly seen say nothing.
_PSEUDO_COUNT = 0.5


class PeakRouter(Router):
    """A chunk begins where the router's score is the greatest among ``neighbours`` positions, itself included.

    The ratio of boundaries is about 1 / neighbours whatever the scores are, so that no offset and no ratio loss is
    needed. p = sigmoid(10 (score - greatest other score - 0.00001)) passes 1/2 at a peak. It is a minimizer whose hash
    is learned: after an insertion or deletion it cuts as before once the neighbourhood has passed.
    """

    def __init__(self, dim: int, limits: ChunkLimits, target: float):
        super().__init__(dim, limits)
        self.neighbours = neighbours_at(target)

    def decide(self, dissimilarity: Float[Tensor, "batch gaps"], level: Level) -> Chunking:
        score = nn.functional.pad(dissimilarity, (1, 0), value=1.0)
        others = greatest_neighbour(score, level, self.neighbours)
        probability = torch.sigmoid(_PEAK_SHARPNESS * (score - others - _LEAST_RISE)).masked_fill(~level.is_valid, 0.0)
        # 1 at a row's start, as the router has it: the smoothing of the first chunk reads it.
        probability = torch.cat([torch.ones_like(probability[:, :1]), probability[:, 1:]], dim=1)
        return decide_boundaries(probability, level, self.limits)


def neighbours_at(target: float) -> int:
    """Positions of which one is a boundary at a target ratio."""
    return max(round(1 / target), 2)


def greatest_neighbour(
    score: Float[Tensor, "batch positions"], level: Level, neighbours: int
) -> Float[Tensor, "batch positions"]:
    """The greatest score among the other positions of each position's neighbourhood.

    A forced boundary counts as infinitely high, so that no other is put beside it. Where none may be, as very low.
    """
    forced = level.forced_reason[..., 0] != BoundaryReason.ROUTER.value
    # Not infinity: the difference of two infinities is NaN.
    score = score.masked_fill(forced | ~level.is_valid, -1e4).masked_fill(level.is_forced_on, 1e4)
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
    """Boundaries at even distances, counted anew from each forced one: where floor(i x target) grows by one.

    As at the peaks of a score, none is put beside a forced one. A ruler that counts on from the row's start cuts off
    pieces of one or two bases there, which cost it more than half of what peaks were ahead of it (docs/experiments.md).
    """

    def wanted(self, level: Level) -> Tensor:
        index = torch.arange(level.is_valid.shape[1], device=level.is_valid.device).expand(level.is_valid.shape)
        # float64: 0.3 x 10 in float32 is over 3.
        since = (index - torch.where(level.is_forced_on, index, 0).cummax(1).values).double()
        wanted = (since * self.target).floor() > ((since - 1) * self.target).floor()
        behind = neighbours_at(self.target) // 2
        near = nn.functional.pad(level.is_forced_on.float(), (0, behind))[:, None]
        return wanted & (nn.functional.max_pool1d(near, behind + 1, 1)[:, 0] == 0)


class ScorePeaks(FixedChunker):
    """A chunk begins where the level's score is the greatest among 1 / target positions: content-defined.

    With a hash of the next bases as the score this is a minimizer. ``BranchingEntropy`` is another score. A hash of the
    position is the control of both, and of ``PeakRouter``: the same distances at places that mean nothing.
    """

    def wanted(self, level: Level) -> Tensor:
        assert level.score is not None  # the model fills it for this chunker
        return level.score > greatest_neighbour(level.score, level, neighbours_at(self.target))


class NoChunker(FixedChunker):
    """No boundary but those that are forced: cap and guard alone make the chunks."""

    def wanted(self, level: Level) -> Tensor:
        return torch.zeros_like(level.is_valid)


class BranchingEntropy(nn.Module):
    """How much less certain the neighbouring base becomes between two bases: high where something known ends.

    Inside a word that occurs often, k bases tell the next one. Behind its end they do not: the entropy of the next base
    rises there (Harris 1955; Kempe 1999; Tanaka-Ishii 2005). The same holds from right to left. The score of a base is
    the sum of both rises between it and the base before it.

    The tables hold the entropy in bits of the base behind and before each k-mer. They are counted, not trained by
    gradients, on both strands, so that both strands are cut between the same bases.
    """

    behind: Tensor
    before: Tensor

    def __init__(self, k: int):
        super().__init__()
        self.k = k
        # 2 bits: nothing is known before ``count``.
        self.register_buffer("behind", torch.full((4**k,), 2.0))
        self.register_buffer("before", torch.full((4**k,), 2.0))
        self._is_counted = False  # or loaded so; looked at once, because a look makes a GPU wait

    @torch.no_grad()
    def count(self, batches: Iterable[Int[Tensor, "rows length"]]) -> None:
        """Fill the tables from sequence without masks, on any device."""
        num_kmers, counts = 4**self.k, torch.full((4**self.k, 4), _PSEUDO_COUNT, dtype=torch.float64)
        for rows in batches:
            for strand in (rows.cpu(), reverse_complement(rows.cpu(), torch.ones_like(rows.cpu(), dtype=torch.bool))):
                code = self._codes(strand)[:, : -self.k]
                behind = strand[:, self.k :]
                keep = (code < num_kmers) & is_clean_base(behind)
                places = code[keep] * 4 + kmer_digits(behind[keep][None])[0]
                counts += torch.bincount(places, minlength=4 * num_kmers).view(-1, 4)
        share = counts / counts.sum(1, keepdim=True)
        self.behind.copy_(-(share * share.log2()).sum(1))
        # What stands before a k-mer on one strand stands behind its reverse complement on the other.
        self.before.copy_(self.behind[self._reverse_complements()])

    def forward(self, input_ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
        """The score of each base; 0 where a k-mer that it needs is cut off or holds anything but A, C, G, T.

        Raises:
            ConfigError: Nothing was counted: no base would have a score, and the cap would cut alone.
        """
        if not self._is_counted and bool((self.behind == 2.0).all()):
            raise ConfigError(
                "the model has chunker='entropy' and has counted no k-mers: `hnet-ntv2 init` and `pretrain` count "
                "them, and so does hnet_ntv2.conversion.calibrate.calibrate_routers"
            )
        self._is_counted = True
        num_kmers, code = 4**self.k, self._codes(input_ids)
        known = code < num_kmers
        unknown = torch.full_like(code, torch.nan, dtype=self.behind.dtype)
        # Of base i: given the k bases before it, and given the k bases behind it.
        behind = torch.where(known, self.behind[code.clamp(max=num_kmers - 1)], unknown)
        forward = nn.functional.pad(behind, (self.k, 0), value=torch.nan)[:, : -self.k]
        before = torch.where(known, self.before[code.clamp(max=num_kmers - 1)], unknown)
        backward = nn.functional.pad(before[:, 1:], (0, 1), value=torch.nan)
        rise = nn.functional.pad(forward.diff(dim=1), (1, 0)) - nn.functional.pad(backward.diff(dim=1), (1, 0))
        return rise.nan_to_num(0.0)

    def _codes(self, input_ids: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        """The k-mer that starts at each base, as a number; 4^k where there is none."""
        is_whole = run_length_right(is_clean_base(input_ids)) >= self.k
        return torch.where(is_whole, kmer_codes(kmer_digits(input_ids), self.k), 4**self.k)

    def _reverse_complements(self) -> Int[Tensor, " kmers"]:
        """The number of each k-mer's reverse complement."""
        # NTv2's digits: A 0, T 1, C 2, G 3, so that the complement of a digit is its last bit flipped.
        code, flipped = torch.arange(4**self.k), torch.zeros(4**self.k, dtype=torch.long)
        for _ in range(self.k):
            flipped, code = flipped * 4 + (code % 4 ^ 1), code // 4
        return flipped


def hash_bases(input_ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
    """A hash within 0..1 of the 4 bases that start at each position; at a row's end of those that are left."""
    code = torch.zeros_like(input_ids)
    for offset in range(_HASHED_BASES):
        code = code * 16 + nn.functional.pad(input_ids[:, offset:], (0, offset))
    return _scatter(code)


def hash_positions(input_ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
    """A hash within 0..1 of each position, whatever stands there."""
    code = torch.arange(input_ids.shape[1], device=input_ids.device) * _HASH_FACTOR % (1 << 32)
    # Mixed once more: multiples of one number are spaced as evenly as on a ruler.
    return _scatter(code ^ (code >> 15)).expand(input_ids.shape)


def _scatter(numbers: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    # 20 bits, so that float32 holds them exactly; a tie would make neither of two neighbours a peak.
    return ((numbers * _HASH_FACTOR) % (1 << 32) >> 12).float() / (1 << 20)


def build_chunker(config: HNetNTV2Config, stage: int, dim: int) -> nn.Module:
    """The chunker of a stage, counted from 0, over vectors of width ``dim``."""
    least, greatest = config.guards[stage]
    limits, target = ChunkLimits(least, greatest, config.max_chunk_length), config.target_ratios[stage]
    if config.chunker == "learned":
        return Router(dim, limits)
    if config.chunker == "peak":
        return PeakRouter(dim, limits, target)
    # "grid" forces NTv2's tokens before any chunker is asked; what it leaves free (nothing) gets no boundary.
    kinds = {"ruler": Ruler, "none": NoChunker, "grid": NoChunker}
    kinds |= dict.fromkeys(("minimizer", "entropy", "shuffled"), ScorePeaks)
    return kinds[config.chunker](limits, target)
