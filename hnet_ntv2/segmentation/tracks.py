"""Chunks and boundary probabilities as lines for a genome browser: BED and bedGraph, 0-based and half-open."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..genome import Genome, Interval
from ..inference.files import appearing_file
from .segment import Segmentation


class Region(NamedTuple):
    """A stretch of a genome with its encoded bases, [length]."""

    interval: Interval
    bases: NDArray[np.uint8]


def read_region_bases(genome: Genome, intervals: Iterable[Interval]) -> Iterator[Region]:
    """Regions with their bases, one at a time; raises as ``Genome.read``."""
    for interval in intervals:
        yield Region(interval, genome.read(interval))


@dataclass
class ChunkSummary:
    """What was written.

    Attributes:
        num_regions: Regions that were segmented.
        num_bases: Their bases.
        length_counts: [longest + 1] how many final chunks have each length.
    """

    num_regions: int = 0
    num_bases: int = 0
    length_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    @property
    def num_chunks(self) -> int:
        return int(self.length_counts.sum())

    def percentile(self, share: float) -> int:
        """The chunk length that a share of all chunks does not exceed."""
        return int(np.searchsorted(np.cumsum(self.length_counts), share * self.num_chunks))

    def add(self, segmentation: Segmentation) -> None:
        """Count a region."""
        counts = np.bincount(segmentation.chunk_lengths(), minlength=len(self.length_counts))
        counts[: len(self.length_counts)] += self.length_counts
        self.num_regions += 1
        self.num_bases += segmentation.length
        self.length_counts = counts


def write_tracks(
    segmented: Iterable[tuple[Region, Segmentation]],
    chunks: Path,
    stage1: Path | None = None,
    probability: Path | None = None,
) -> ChunkSummary:
    """Write segmentations as they come; the files appear when all regions are there.

    Args:
        segmented: Regions and their chunks.
        chunks: BED6 of the final chunks: name ``chunkN`` counted through the file, score 1000 x the probability that
            a final chunk begins where it does (1000 at the start of a region), strand ``.``.
        stage1: The same for the chunks of stage 1.
        probability: bedGraph of the probability that a stage-1 chunk begins at a base.

    Raises:
        ConfigError: A place cannot be written.
        DataError: There are no regions.
    """
    summary = ChunkSummary()
    with ExitStack() as stack:
        files = [_open(stack, path) for path in (chunks, stage1, probability)]
        num_stage1 = 0
        for region, segmentation in segmented:
            interval = region.interval
            _write(files[0], chunk_lines(interval, segmentation, stage=-1, first_number=summary.num_chunks + 1))
            _write(files[1], chunk_lines(interval, segmentation, stage=0, first_number=num_stage1 + 1))
            _write(files[2], probability_lines(interval, segmentation))
            num_stage1 += len(segmentation.starts[0])
            summary.add(segmentation)
        if not summary.num_regions:
            raise DataError("there is no region to segment")
    return summary


def _open(stack: ExitStack, path: Path | None) -> TextIO | None:
    if path is None:
        return None
    # The file is closed before it takes its name: what was entered last is left first.
    partial = stack.enter_context(appearing_file(path))
    return stack.enter_context(partial.open("w", encoding="utf-8"))


def _write(file: TextIO | None, lines: Iterable[str]) -> None:
    if file is not None:
        file.writelines(lines)


def chunk_lines(
    interval: Interval, segmentation: Segmentation, stage: int = -1, first_number: int = 1
) -> Iterator[str]:
    """BED6 lines of the chunks of a stage; see ``write_tracks``."""
    starts = segmentation.starts[stage]
    ends = np.append(starts[1:], segmentation.length) + interval.start
    beginning = segmentation.probability if stage == 0 else segmentation.final_probability
    scores = np.rint(beginning[starts] * 1000).astype(int)
    columns = zip((starts + interval.start).tolist(), ends.tolist(), scores.tolist(), strict=True)
    for number, (start, end, score) in enumerate(columns, start=first_number):
        yield f"{interval.contig}\t{start}\t{end}\tchunk{number}\t{score}\t.\n"


def probability_lines(interval: Interval, segmentation: Segmentation) -> Iterator[str]:
    """bedGraph lines with four decimals; neighbours that read alike share a line."""
    written = np.rint(segmentation.probability * 10_000).astype(int)
    starts = np.flatnonzero(np.diff(written, prepend=-1))
    ends = np.append(starts[1:], segmentation.length)
    for start, end, value in zip(starts.tolist(), ends.tolist(), written[starts].tolist(), strict=True):
        yield f"{interval.contig}\t{interval.start + start}\t{interval.start + end}\t{value / 10_000:.4f}\n"
