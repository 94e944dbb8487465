"""Small genomes for the tests of the data layer."""

from pathlib import Path

import numpy as np

from hnet_ntv2.genome import Genome, open_genome


def random_bases(length: int, seed: int = 0) -> bytes:
    """Upper-case letters drawn uniformly."""
    return np.frombuffer(b"ACGT", dtype=np.uint8)[np.random.default_rng(seed).integers(0, 4, length)].tobytes()


def make_genome(folder: Path, contigs: dict[str, bytes]) -> Genome:
    """Write a FASTA of these contigs and open it."""
    return open_genome(make_fasta(folder, contigs), folder / "cache")


def make_fasta(folder: Path, contigs: dict[str, bytes]) -> Path:
    """Write a FASTA of these contigs."""
    path = folder / "genome.fa"
    path.write_bytes(b"".join(b">" + name.encode() + b"\n" + bases + b"\n" for name, bases in contigs.items()))
    return path
