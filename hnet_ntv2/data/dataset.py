"""Map sample counters to raw windows, a micro-batch at a time; samplers that yield the counters of a rank."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from ..errors import ConfigError
from ..genome import Genome, SpanIndex
from ..shapes import Bool, Int, UInt8
from ..vocabulary import BASE_BITS, SOFT_MASK
from .windows import WindowIndex, WindowPlaces


class RawWindows(NamedTuple):
    """Windows as they stand in the genome's forward frame, before strand and masking.

    Attributes:
        bases: Encoded bases, with the repeat bit.
        counter: Sample counter of each window; negative for filling that must not count.
        epoch: Which pass over the tiles it belongs to.
        number: Its number k within that pass.
        is_reverse: Whether the model reads it on the reverse strand.
    """

    bases: UInt8[np.ndarray, "batch length"]
    counter: Int[np.ndarray, " batch"]
    epoch: Int[np.ndarray, " batch"]
    number: Int[np.ndarray, " batch"]
    is_reverse: Bool[np.ndarray, " batch"]


class WindowDataset(Dataset[RawWindows]):
    """Windows of one split by sample counter. Subclasses define where the window of a counter lies.

    Args:
        genome: Where to read.
        index: The split's tiles.
        repeats: Repeats in positions in the genome; given, they replace the genome's soft mask.
    """

    def __init__(self, genome: Genome, index: WindowIndex, repeats: SpanIndex | None = None) -> None:
        self.genome = genome
        self.index = index
        self._repeats = repeats

    def __getitem__(self, counter: int) -> RawWindows:
        return self.__getitems__([counter])

    # PyTorch's loader calls this instead of __getitem__ per sample: one vectorised draw for the micro-batch.
    def __getitems__(self, counters: Sequence[int]) -> RawWindows:
        counter = np.asarray(counters, dtype=np.int64)
        places = self._places(counter)
        bases = self.genome.gather(places.start, self.index.length)
        if self._repeats is not None:
            starts, length = places.start.tolist(), self.index.length
            in_repeat = np.stack([self._repeats.mask(start, start + length) for start in starts])
            bases = (bases & BASE_BITS) | (in_repeat.view(np.uint8) * np.uint8(SOFT_MASK))
        return RawWindows(bases, counter, places.epoch, places.number, places.is_reverse)

    def _places(self, counter: Int[np.ndarray, " batch"]) -> WindowPlaces:
        raise NotImplementedError


class TrainingWindows(WindowDataset):
    """Windows drawn by (seed, epoch, k); the counter runs on over the epochs."""

    def __init__(self, genome: Genome, index: WindowIndex, seed: int, repeats: SpanIndex | None = None) -> None:
        super().__init__(genome, index, repeats)
        self._seed = seed

    def _places(self, counter: Int[np.ndarray, " batch"]) -> WindowPlaces:
        return self.index.draw(counter, self._seed)


class FixedWindows(WindowDataset):
    """The same tiles every time, in order: all of a split, or ``count`` spread evenly over it."""

    def __init__(
        self, genome: Genome, index: WindowIndex, count: int | None = None, repeats: SpanIndex | None = None
    ) -> None:
        super().__init__(genome, index, repeats)
        self._tiles = index.evenly_spread(count)

    def __len__(self) -> int:
        return len(self._tiles)

    def _places(self, counter: Int[np.ndarray, " batch"]) -> WindowPlaces:
        # Filling repeats a window under a negative counter: -1 stands for window 0, -2 for window 1.
        return self.index.fixed(self._tiles[np.where(counter < 0, -1 - counter, counter)])


@dataclass(eq=False)
class TrainingSampler(Sampler[list[int]]):
    """Micro-batches of sample counters for one rank, from any position on.

    All ranks together take ``micro_batch_size * world_size`` samples at a time, rank 0 the first: micro-batch i of rank
    r holds ``start + i * micro_batch_size * world_size + r * micro_batch_size`` and the counters after it. So the
    samples of an optimiser step depend on its global batch only, and a run resumes at ``start`` with the next sample.

    Args:
        micro_batch_size: Windows per micro-batch.
        start: First counter, the number of samples seen before.
        stop: Counter to end before; None never ends. Must leave whole micro-batches for all ranks.
        rank: Which process this is.
        world_size: How many there are.

    Raises:
        ConfigError: if a number is out of range, or ``stop - start`` does not divide.
    """

    micro_batch_size: int
    start: int = 0
    stop: int | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        size, start, stop, ranks = self.micro_batch_size, self.start, self.stop, self.world_size
        if size < 1 or not 0 <= self.rank < ranks or start < 0:
            raise ConfigError(f"micro_batch_size {size}, start {start}, rank {self.rank} of {ranks}: no such position")
        if stop is not None and (stop < start or (stop - start) % (size * ranks)):
            raise ConfigError(
                f"samples {start} to {stop} cannot be dealt out as micro-batches of {size} to {ranks} ranks without a "
                "rest"
            )

    def __iter__(self) -> Iterator[list[int]]:
        size, stride = self.micro_batch_size, self.micro_batch_size * self.world_size
        begin = self.start + self.rank * size
        firsts = itertools.count(begin, stride) if self.stop is None else range(begin, self.stop, stride)
        return (list(range(first, first + size)) for first in firsts)

    def __len__(self) -> int:
        if self.stop is None:
            raise TypeError("an endless sampler has no length")
        return (self.stop - self.start) // (self.micro_batch_size * self.world_size)


@dataclass(eq=False)
class EvaluationSampler(Sampler[list[int]]):
    """Every window once over all ranks, in micro-batches that are full and equally many on each rank.

    Sharded models need equal numbers of forward passes, so the last batches are filled with windows under negative
    counters, which have no targets.

    Args:
        num_windows: Windows to show.
        micro_batch_size: Windows per micro-batch.
        rank: Which process this is.
        world_size: How many there are.
    """

    num_windows: int
    micro_batch_size: int
    rank: int = 0
    world_size: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(len(self)):
            first = (batch * self.world_size + self.rank) * self.micro_batch_size
            numbers = range(first, first + self.micro_batch_size)
            yield [number if number < self.num_windows else -1 - number % self.num_windows for number in numbers]

    def __len__(self) -> int:
        return -(-self.num_windows // (self.micro_batch_size * self.world_size))
