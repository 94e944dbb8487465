"""Chunks and boundary probabilities as lines of BED and bedGraph, 0-based and half-open.

A track gets the stretches of a region one after the other. It holds back what a later stretch can still change; its
state, for JSON, is what it holds back.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..genome import Genome, Interval
from .segment import Stretches
from .stitch import Segmentation

FINAL, STAGE1 = -1, 0  # indices into ``Segmentation.starts``


@dataclass(frozen=True)
class Region:
    """An interval of a genome, for ``segment_sequences``."""

    genome: Genome
    interval: Interval

    @property
    def bases(self) -> NDArray[np.uint8]:
        """All encoded bases, [length]; raises as ``Genome.read``."""
        return self.genome.read(self.interval)


@dataclass
class ChunkSummary:
    """Counts of what was written.

    Attributes:
        num_regions: Regions that are complete.
        num_bases: Their bases, counted once for both strands.
        length_counts: Number of final chunks of each length in bases, from 0 on, of all strands that are written.
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
        """The chunk length in bases that a fraction ``share`` of all chunks does not exceed."""
        return int(np.searchsorted(np.cumsum(self.length_counts), share * self.num_chunks))

    def add(self, stretches: Stretches) -> None:
        """Count chunks that are complete."""
        lengths = np.concatenate([each.chunk_lengths() for each in stretches.strands])
        # A histogram, not the lengths: a genome has hundreds of millions of chunks.
        counts = np.bincount(lengths, minlength=len(self.length_counts))
        counts[: len(self.length_counts)] += self.length_counts
        self.length_counts = counts.tolist()
        self.num_bases += stretches.strands[0].end - stretches.strands[0].start
        self.num_regions += stretches.is_last


class ChunkTrack:
    """BED6 of the chunks of a stage, in each region by their start, the forward strand's first.

    The columns are contig, start, end, the name ``chunkN`` counted through the file, as score 1000 x the probability
    that a chunk begins at the base that its strand reads first (1000 where the strand enters the region), and the
    strand that the chunk was made on: + or -.

    Args:
        stage: ``FINAL`` or ``STAGE1``.
    """

    def __init__(self, stage: int) -> None:
        self._stage = stage
        # Chunks are held back while the other strand may still get one that starts further left.
        self.state: dict[str, Any] = {"num_written": 0, "held": []}

    def lines(self, interval: Interval, stretches: Stretches) -> str:
        """The chunks that start left of everything still to come."""
        rows = sorted(self.state["held"] + [row for each in stretches.strands for row in _rows(each, self._stage)])
        known_to = min(each.end for each in stretches.strands)
        ready = [row for row in rows if row[0] < known_to]
        offset, contig, first = interval.start, interval.contig, self.state["num_written"] + 1
        self.state = {"num_written": self.state["num_written"] + len(ready), "held": rows[len(ready) :]}
        return "".join(
            f"{contig}\t{start + offset}\t{end + offset}\tchunk{number}\t{score}\t{strand}\n"
            for number, (start, strand, end, score) in enumerate(ready, start=first)
        )


def _rows(found: Segmentation, stage: int) -> Iterator[list[int | str]]:
    scores = np.rint(found.beginning(stage) * 1000).astype(int).tolist()
    columns = zip(found.starts[stage].tolist(), found.chunk_ends(stage).tolist(), scores, strict=True)
    # Lists, as JSON gives them back: a list cannot be sorted among tuples. By start, then by strand: + sorts first.
    return ([start, found.strand, end, score] for start, end, score in columns)


class ProbabilityTrack:
    """bedGraph of the probability that a stage-1 chunk of the forward strand begins at a base.

    Four decimals; neighbours of the same rounded value share a line.
    """

    def __init__(self) -> None:
        # The last run of equal values is held back, since the next stretch may continue it; -1 is no value.
        self.state: dict[str, Any] = {"start": 0, "value": -1}

    def lines(self, interval: Interval, stretches: Stretches) -> str:
        """The runs that have ended."""
        found = stretches.strands[0]
        values = np.rint(found.probability * 10_000).astype(int)
        changes = np.flatnonzero(np.diff(values, prepend=self.state["value"]))
        starts = [self.state["start"], *(changes + found.start).tolist()]
        run_values = [self.state["value"], *values[changes].tolist()]
        # A run never continues into the next region, whose positions begin at 0 again.
        start, value = (0, -1) if stretches.is_last else (starts[-1], run_values[-1])
        self.state = {"start": start, "value": value}
        ends = [*starts[1:], found.end] if stretches.is_last else starts[1:]
        offset, contig = interval.start, interval.contig
        return "".join(
            f"{contig}\t{start + offset}\t{end + offset}\t{value / 10_000:.4f}\n"
            # Not strict: the last run has no end until its region ends.
            for start, end, value in zip(starts, ends, run_values, strict=False)
            if start < end  # the placeholder in front of a region's first run is empty
        )
