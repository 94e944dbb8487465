"""Coordinates: one interval, and a sorted set of spans that counts and marks positions of windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import IntervalError

Positions = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of a contig, 0-based and half-open: ``start`` is the first base, ``end`` the one after the last.

    Raises:
        IntervalError: if ``start`` is negative, or ``end`` is not after ``start``.
    """

    contig: str
    start: int
    end: int

    def __post_init__(self) -> None:
        if self.start < 0:
            raise IntervalError(f"{self}: the start is negative; coordinates are 0-based and half-open")
        if self.end <= self.start:
            kind = "empty" if self.end == self.start else "reversed"
            raise IntervalError(f"{self}: {kind}; coordinates are 0-based and half-open, so the end is after the start")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.contig}:{self.start}-{self.end}"

    def overlaps(self, other: "Interval") -> bool:
        """Whether the two share at least one base."""
        return self.contig == other.contig and self.start < other.end and other.start < self.end


class SpanIndex:
    """Sorted, disjoint spans [start, end) of one coordinate axis, for fast lookups by window.

    Spans may be given in any order, overlapping or touching; they are merged.

    Args:
        starts: First position of each span.
        ends: Position after the last of each span.
    """

    def __init__(self, starts: Positions, ends: Positions) -> None:
        starts, ends = np.asarray(starts, dtype=np.int64), np.asarray(ends, dtype=np.int64)
        order = np.argsort(starts, kind="stable")
        # The running maximum: a short span inside an earlier long one must not end the merged span.
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        # Of spans that overlap or touch, only the first opens a merged span, and only the last closes it.
        opens = np.ones(len(starts), dtype=bool)
        opens[1:] = starts[1:] > ends[:-1]
        self.starts, self.ends = starts[opens], ends[np.append(opens[1:], True)[: len(ends)]]
        self._covered_before = np.concatenate(([0], np.cumsum(self.ends - self.starts)))

    def __len__(self) -> int:
        return len(self.starts)

    def mask(self, start: int, end: int) -> NDArray[np.bool_]:
        """Which positions of [start, end) lie in a span."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.starts, end, side="left"))
        change = np.zeros(end - start + 1, dtype=np.int8)
        # Disjoint merged spans: each position starts at most one span and ends at most one, never both.
        change[np.maximum(self.starts[first:last] - start, 0)] = 1
        change[np.minimum(self.ends[first:last], end) - start] -= 1
        return np.cumsum(change[:-1], dtype=np.int8).view(np.bool_)

    def count(self, starts: Positions, ends: Positions) -> NDArray[np.int64]:
        """How many positions of each window [start, end) lie in a span; takes arrays of windows."""
        return self._covered_up_to(np.asarray(ends)) - self._covered_up_to(np.asarray(starts))

    def _covered_up_to(self, position: NDArray[np.int64]) -> NDArray[np.int64]:
        if not len(self):
            return np.zeros(position.shape, dtype=np.int64)
        span = np.searchsorted(self.starts, position, side="right") - 1
        inside = np.clip(position - self.starts[span], 0, (self.ends - self.starts)[span])
        return np.where(span >= 0, self._covered_before[span] + inside, 0)


def find_runs(flags: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends (half-open) of the runs of true values."""
    edges = np.flatnonzero(np.diff(flags.view(np.int8), prepend=np.int8(0), append=np.int8(0)))
    return edges[0::2].astype(np.int64), edges[1::2].astype(np.int64)
