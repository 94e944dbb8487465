"""The sequences to embed: the records of a FASTA, the rows of a table, or regions of a genome."""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..genome import Genome, Interval, StrandedInterval, read_genome_blocks, reverse_complement
from ..genome.files import check_readable, is_pipe
from ..tasks.table import Table


class NamedSequence(NamedTuple):
    """A name, encoded bases, and what is known of their place.

    Attributes:
        name: As it is written to the output.
        bases: [length] bytes as in ``vocabulary``, in the direction in which the model reads them.
        label: Of the row, if its file has one.
        interval: Where the bases without their context lie in a genome, if that is known.
        strand: ``+``, ``-`` or ``.``, if that is known; the bases of ``-`` are reverse complemented already.
        context: Bases at the left and right end of ``bases`` that the model sees and no vector counts.
    """

    name: str
    bases: NDArray[np.uint8]
    label: str | None = None
    interval: Interval | None = None
    strand: str | None = None
    context: tuple[int, int] = (0, 0)

    @property
    def span(self) -> tuple[int, int]:
        """Start and end in ``bases`` of what is embedded."""
        return self.context[0], len(self.bases) - self.context[1]


def read_fasta(path: str | os.PathLike[str]) -> Iterator[NamedSequence]:
    """The records of a FASTA (plain, gzip, bgzip) or .2bit file, one at a time.

    Raises:
        GenomeError: As ``read_genome_blocks``; at once for a file, and while a pipe is read.
    """
    path = check_readable(path)
    # Read twice: a name that comes twice or a letter that is no base must raise before hours of work.
    if not is_pipe(path):
        for _ in read_genome_blocks(path):
            pass
    return _records(path)


def _records(path: Path) -> Iterator[NamedSequence]:
    for name, blocks in groupby(read_genome_blocks(path), key=lambda block: block.contig):
        yield NamedSequence(name, np.concatenate([block.bases for block in blocks]))


def table_sequences(table: Table) -> Iterator[NamedSequence]:
    """The rows of a table, with their labels and coordinates."""
    rows = len(table)
    columns = (table.labels, table.coordinates, table.strands)
    known = ((None,) * rows if column is None else column for column in columns)
    for row in zip(table.names, table.bases, *known, strict=True):
        yield NamedSequence(*row)


def read_regions(genome: Genome, intervals: Sequence[Interval], context: int = 0) -> Iterator[NamedSequence]:
    """Regions of a genome, named ``contig:start-end`` (0-based, half-open); those on strand ``-`` reverse complemented.

    Args:
        genome: The genome.
        intervals: Those without a strand (no ``StrandedInterval``) are read forward.
        context: Bases of the genome to add on each side, fewer at a contig's end.

    Raises:
        GenomeError: As ``Genome.read``.
    """
    for interval in intervals:
        contig = genome.resolve(interval.contig)
        start = max(interval.start - context, 0)
        end = min(interval.end + context, max(genome.contigs[contig], interval.end))
        bases, left, right = genome.read(Interval(contig, start, end)), interval.start - start, end - interval.end
        strand = interval.strand if isinstance(interval, StrandedInterval) else "."
        if strand == "-":
            bases, left, right = reverse_complement(bases), right, left
        yield NamedSequence(str(interval), bases, None, interval, strand, (left, right))
