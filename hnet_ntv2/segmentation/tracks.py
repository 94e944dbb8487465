"""Chunks and boundary probabilities as lines for a genome browser: BED and bedGraph, 0-based and half-open."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..genome import Genome, Interval
from .segment import Stretches
from .stitch import Segmentation

FINAL, STAGE1 = -1, 0


@dataclass(frozen=True)
class Region:
    """A stretch of a genome, read when it is needed."""

    genome: Genome
    interval: Interval

    def __len__(self) -> int:
        return len(self.interval)

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Encoded bases [start, end) of the region; raises as ``Genome.read``."""
        first = self.interval.start
        return self.genome.read(Interval(self.interval.contig, first + start, first + end))

    @property
    def bases(self) -> NDArray[np.uint8]:
        """All encoded bases, [length]; raises as ``Genome.read``."""
        return self.genome.read(self.interval)


@dataclass
class ChunkSummary:
    """What was written.

    Attributes:
        num_regions: Regions that were segmented.
        num_bases: Their bases, counted once for both strands.
        length_counts: How many final chunks have each length, from 0 on; of both strands where both are written.
    """

    num_regions: int = 0
    num_bases: int = 0
    length_counts: list[int] = field(default_factory=lambda: [0])

    @property
    def num_chunks(self) -> int:
        return sum(self.length_counts)

    @property
    def mean_length(self) -> float:
        """Bases per chunk."""
        return sum(length * count for length, count in enumerate(self.length_counts)) / self.num_chunks

    def percentile(self, share: float) -> int:
        """The chunk length that a share of all chunks does not exceed."""
        return int(np.searchsorted(np.cumsum(self.length_counts), share * self.num_chunks))

    def add(self, stretches: Stretches) -> None:
        """Count chunks that are complete."""
        lengths = np.concatenate([each.chunk_lengths() for each in stretches.strands])
        counts = np.bincount(lengths, minlength=len(self.length_counts))
        counts[: len(self.length_counts)] += self.length_counts
        self.length_counts = counts.tolist()
        self.num_bases += stretches.strands[0].end - stretches.strands[0].start
        self.num_regions += stretches.is_last


@runtime_checkable
class Sink(Protocol):
    """What lines are written to."""

    def write(self, text: str, /) -> Any: ...


@runtime_checkable
class Track(Protocol):
    """One output file: takes the stretches of regions in their order."""

    def add(self, interval: Interval, stretches: Stretches) -> None:
        """Write the lines that are complete."""
        ...

    def state(self) -> dict[str, Any]:
        """What is not written yet, for JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


class ChunkTrack:
    """BED6 of the chunks of a stage, in each region by their start, the forward strand's first.

    The columns are contig, start, end, the name ``chunkN`` counted through the file, as score 1000 x the probability
    that a chunk begins at the base that its strand reads first (1000 where the strand enters the region), and the
    strand that the chunk was made on: + or -.

    Args:
        sink: What is written to.
        stage: ``FINAL`` or ``STAGE1``.
    """

    def __init__(self, sink: Sink, stage: int) -> None:
        self._sink = sink
        self._stage = stage
        self._num_written = 0
        # Chunks that must wait: the other strand may still have one that starts further left.
        self._held: list[tuple[int, str, int, int]] = []

    def add(self, interval: Interval, stretches: Stretches) -> None:
        """Write the chunks in front of which no other one can come any more."""
        rows = self._held + [row for each in stretches.strands for row in _rows(each, self._stage)]
        rows.sort()
        known_to = min(each.end for each in stretches.strands)
        self._held = [row for row in rows if row[0] >= known_to]
        offset, contig = interval.start, interval.contig
        ready = rows[: len(rows) - len(self._held)]
        self._sink.write(
            "".join(
                f"{contig}\t{start + offset}\t{end + offset}\tchunk{number}\t{score}\t{strand}\n"
                for number, (start, strand, end, score) in enumerate(ready, start=self._num_written + 1)
            )
        )
        self._num_written += len(ready)

    def state(self) -> dict[str, Any]:
        """What is not written yet, for JSON."""
        return {"num_written": self._num_written, "held": self._held}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._num_written = state["num_written"]
        self._held = [(start, strand, end, score) for start, strand, end, score in state["held"]]


def _rows(found: Segmentation, stage: int) -> Iterator[tuple[int, str, int, int]]:
    scores = np.rint(found.beginning(stage) * 1000).astype(int).tolist()
    columns = zip(found.starts[stage].tolist(), found.chunk_ends(stage).tolist(), scores, strict=True)
    return ((start, found.strand, end, score) for start, end, score in columns)


class ProbabilityTrack:
    """bedGraph of the probability that a stage-1 chunk of the forward strand begins at a base.

    Four decimals; neighbours that read alike share a line.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        # The last run of like values, which the next bases may go on with; -1 is no value.
        self._run_start, self._run_value = 0, -1

    def add(self, interval: Interval, stretches: Stretches) -> None:
        """Write the runs that have ended."""
        found = stretches.strands[0]
        values = np.rint(found.probability * 10_000).astype(int)
        changes = np.flatnonzero(np.diff(values, prepend=self._run_value))
        starts = [self._run_start, *(changes + found.start).tolist()]
        run_values = [self._run_value, *values[changes].tolist()]
        self._run_start, self._run_value = (0, -1) if stretches.is_last else (starts[-1], run_values[-1])
        ends = [*starts[1:], found.end] if stretches.is_last else starts[1:]
        offset, contig = interval.start, interval.contig
        self._sink.write(
            "".join(
                f"{contig}\t{start + offset}\t{end + offset}\t{value / 10_000:.4f}\n"
                for start, end, value in zip(starts, ends, run_values, strict=False)
                if start < end
            )
        )

    def state(self) -> dict[str, Any]:
        """What is not written yet, for JSON."""
        return {"start": self._run_start, "value": self._run_value}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._run_start, self._run_value = state["start"], state["value"]


class Tracks:
    """All outputs of a job, and the count of what is in them."""

    def __init__(self, tracks: list[Track]) -> None:
        self._tracks = tracks
        self.summary = ChunkSummary()

    def add(self, interval: Interval, stretches: Stretches) -> None:
        """Write what is complete."""
        for track in self._tracks:
            track.add(interval, stretches)
        self.summary.add(stretches)

    def state(self) -> dict[str, Any]:
        """What is not written yet, and the count, for JSON."""
        return {"tracks": [track.state() for track in self._tracks], "summary": dataclasses.asdict(self.summary)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for track, own in zip(self._tracks, state["tracks"], strict=True):
            track.restore(own)
        self.summary = ChunkSummary(**state["summary"])
