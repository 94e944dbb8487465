"""Tiles of the intervals of a split, and the places of windows drawn from them by counters."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..genome import Genome, SpanIndex, SplitInterval
from .random import Stream, below, draw_bits, permute, window_keys

logger = logging.getLogger(__name__)


class WindowPlaces(NamedTuple):
    """Where some windows lie.

    Attributes:
        start: Position in the genome of each window's first base.
        is_reverse: Whether the window is read on the reverse strand.
        epoch: Which pass over the tiles it belongs to.
        number: Its number k within that pass.
    """

    start: NDArray[np.int64]
    is_reverse: NDArray[np.bool_]
    epoch: NDArray[np.int64]
    number: NDArray[np.int64]


@dataclass(frozen=True)
class WindowIndex:
    """The tiles of one split: windows of one length that lie inside their interval and are not mostly N.

    An interval is cut into as many tiles as fit; the rest is spread between them. So with a jitter of half a window
    every base can be drawn.

    Attributes:
        length: Bases per window.
        tile_start: Position in the genome of each tile's first base.
        interval_start: Start of the interval that each tile lies in.
        interval_end: Its end.
        num_skipped_n: Tiles left out because they are mostly N.
        num_short_intervals: Intervals left out because they are shorter than a window.
        num_bases: Bases in the intervals that are used.
        n_runs: The genome's runs of N.
        max_n_share: Largest share of N in a window.
    """

    length: int
    tile_start: NDArray[np.int64]
    interval_start: NDArray[np.int64]
    interval_end: NDArray[np.int64]
    num_skipped_n: int
    num_short_intervals: int
    num_bases: int
    n_runs: SpanIndex
    max_n_share: float

    @classmethod
    def build(
        cls,
        genome: Genome,
        intervals: Sequence[SplitInterval],
        length: int,
        max_n_share: float = 0.5,
        split: str = "train",
    ) -> "WindowIndex":
        """Tile the intervals of one split.

        Args:
            genome: Where they lie.
            intervals: Intervals; those of other splits are ignored.
            length: Bases per window.
            max_n_share: Tiles with a larger share of N are left out.
            split: Which split to take.

        Raises:
            DataError: if the split has no interval, all are shorter than a window, or all windows are mostly N.
            ContigNotFound, IntervalError: if an interval does not fit the genome.
        """
        chosen = [interval for interval in intervals if interval.split == split]
        if not chosen:
            raise DataError(f"no interval belongs to the split {split!r}; give an interval file that has some")
        fitting = [interval for interval in chosen if len(interval) >= length]
        if not fitting:
            longest = max(len(interval) for interval in chosen)
            raise DataError(
                f"a window of {length} bases is longer than every {split} interval (the longest has {longest}); "
                f"set seq_length to at most {longest}"
            )
        tile_start, interval_start, interval_end = _tiles(genome, fitting, length)
        num_n = genome.n_runs.count(tile_start, tile_start + length)
        is_kept = num_n <= max_n_share * length
        if not is_kept.any():
            raise DataError(
                f"all {len(tile_start)} windows of the {split} intervals are more than {max_n_share:.0%} N; "
                "choose intervals with sequence in them, or raise max_n_share"
            )
        index = cls(
            length=length,
            tile_start=tile_start[is_kept],
            interval_start=interval_start[is_kept],
            interval_end=interval_end[is_kept],
            num_skipped_n=int((~is_kept).sum()),
            num_short_intervals=len(chosen) - len(fitting),
            num_bases=sum(len(interval) for interval in fitting),
            n_runs=genome.n_runs,
            max_n_share=max_n_share,
        )
        index._log(split)
        return index

    def __len__(self) -> int:
        return len(self.tile_start)

    def draw(self, counters: NDArray[np.int64], seed: int) -> WindowPlaces:
        """Training windows: a new order of the tiles in each epoch, each moved a little, on a random strand.

        Sample counter c is number ``k = c % len(self)`` of epoch ``e = c // len(self)``, and depends on (seed, e, k)
        and nothing else.
        """
        epoch, number = np.divmod(counters, len(self))
        # A permutation, not a draw with replacement: each epoch shows each tile once.
        tile = permute(number, len(self), window_keys(seed, Stream.TILE_ORDER, epoch, 0))
        fixed = self.tile_start[tile]
        first = np.maximum(fixed - self.length // 2, self.interval_start[tile])
        last = np.minimum(fixed + self.length // 2, self.interval_end[tile] - self.length)
        bits = draw_bits(window_keys(seed, Stream.JITTER, epoch, number), 0)
        start = first + below(bits, last - first + 1)
        num_n = self.n_runs.count(start, start + self.length)
        # Back to the tile, which was checked: moving may have brought in a run of N.
        start = np.where(num_n > self.max_n_share * self.length, fixed, start)
        strand = below(draw_bits(window_keys(seed, Stream.STRAND, epoch, number), 0), 2)
        return WindowPlaces(start, strand.astype(bool), epoch, number)

    def fixed(self, tiles: NDArray[np.int64]) -> WindowPlaces:
        """Validation windows: the tiles themselves, forward, in epoch 0."""
        zeros = np.zeros(len(tiles), dtype=np.int64)
        return WindowPlaces(self.tile_start[tiles], zeros.astype(bool), zeros, tiles)

    def evenly_spread(self, count: int | None) -> NDArray[np.int64]:
        """Numbers of ``count`` tiles spread evenly over all (all of them if None or more than there are)."""
        total = len(self)
        if count is None or count >= total:
            return np.arange(total)
        return (2 * np.arange(count) + 1) * total // (2 * count)

    def _log(self, split: str) -> None:
        logger.info("%s: %d windows of %d bases", split, len(self), self.length)
        if self.num_skipped_n:
            logger.info("%s: left out %d windows that are mostly N", split, self.num_skipped_n)
        if self.num_short_intervals:
            logger.warning("%s: left out %d intervals shorter than a window", split, self.num_short_intervals)


def _tiles(
    genome: Genome, intervals: Sequence[SplitInterval], length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Starts of all tiles, and start and end of the interval of each."""
    start = np.array([genome.locate(interval) for interval in intervals], dtype=np.int64)
    size = np.array([len(interval) for interval in intervals], dtype=np.int64)
    count = size // length
    owner = np.repeat(np.arange(len(intervals)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    left_over = size - count * length
    # A single tile goes to the middle; several go from the first base to the last.
    spread = np.where(count[owner] > 1, number * left_over[owner], left_over[owner] // 2)
    tile = start[owner] + number * length + spread // np.maximum(count[owner] - 1, 1)
    return tile, start[owner], (start + size)[owner]
