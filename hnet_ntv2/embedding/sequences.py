"""The sequences to embed: the records of a FASTA, or regions of a genome."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..genome import Genome, Interval, read_genome_blocks


class NamedSequence(NamedTuple):
    """A name and encoded bases, [length] bytes as in ``genome.alphabet``."""

    name: str
    bases: NDArray[np.uint8]


def read_fasta(path: str | os.PathLike[str]) -> Iterator[NamedSequence]:
    """The records of a FASTA (plain, gzip, bgzip) or .2bit file, one at a time.

    Raises:
        GenomeError: As ``read_genome_blocks``.
    """
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
