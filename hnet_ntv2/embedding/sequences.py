"""The sequences to embed: the records of a FASTA, or regions of a genome."""

import os
from collections.abc import Iterator, Sequence
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

    A file is read to its end first, so that a name that comes twice or a letter that is no base is told before hours
    of work; of a pipe they are told when they come.

    Raises:
        GenomeError: As ``read_genome_blocks``.
    """
    path = check_readable(path)
    if not is_pipe(path):
        for _ in read_genome_blocks(path):
            pass
    return _records(path)


def _records(path: Path) -> Iterator[NamedSequence]:
    name, blocks = None, []
    for contig, bases in read_genome_blocks(path):
        if contig != name and name is not None:
            yield NamedSequence(name, np.concatenate(blocks))
            blocks = []
        name = contig
        blocks.append(bases)
    if name is not None:
        yield NamedSequence(name, np.concatenate(blocks))


def read_regions(genome: Genome, intervals: Sequence[Interval]) -> Iterator[NamedSequence]:
    """Regions of a genome, named ``contig:start-end`` (0-based, half-open); raises as ``Genome.read``."""
    for interval in intervals:
        yield NamedSequence(str(interval), genome.read(interval))
