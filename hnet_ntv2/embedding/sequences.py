"""The sequences to embed: the records of a FASTA, or regions of a genome."""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..genome import Genome, Interval, read_genome_blocks
from ..genome.files import check_readable, is_pipe


class NamedSequence(NamedTuple):
    """A name and encoded bases, [length] bytes as in ``vocabulary``."""

    name: str
    bases: NDArray[np.uint8]


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


def read_regions(genome: Genome, intervals: Sequence[Interval]) -> Iterator[NamedSequence]:
    """Regions of a genome, named ``contig:start-end`` (0-based, half-open); raises as ``Genome.read``."""
    for interval in intervals:
        yield NamedSequence(str(interval), genome.read(interval))
