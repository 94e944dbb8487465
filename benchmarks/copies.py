"""How much of a sequence could be read off an earlier copy in the same row: the share of bases in repeated k-mers.

A chunker matters where the trunk looks something up in the row (benchmarks/tokenizers). This counts how often real DNA
offers that, for rows of several lengths.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet_ntv2.errors import DataError, HNetNTV2Error
from hnet_ntv2.genome import open_genome, read_split_intervals
from hnet_ntv2.vocabulary import BASE_BITS, FIRST_BASE

K = 16  # in rows of 100,000 random bases one k-mer in 40,000 has a twin by chance
DISTANCE = 64  # bases at least between the starts of both: nearer ones a local layer sees


def said_before(bases: NDArray[np.integer], k: int = K, distance: int = DISTANCE) -> NDArray[np.bool_]:
    """Whether each base lies in a k-mer that began earlier in the row, too, on the same strand.

    Args:
        bases: [length] 0..3; anything else is no base.
        k: Of the k-mers, at most 31.
        distance: Bases at least between a k-mer and the first one like it.
    """
    is_base = (bases >= 0) & (bases < 4)
    num_kmers = len(bases) - k + 1
    if num_kmers < 1:
        return np.zeros(len(bases), bool)
    code = np.zeros(num_kmers, np.int64)
    for offset in range(k):
        code = code * 4 + np.where(is_base, bases, 0)[offset : offset + num_kmers]
    is_whole = np.convolve(~is_base, np.ones(k, int), "valid") == 0
    code[~is_whole] = -1 - np.flatnonzero(~is_whole)  # like no other
    _, first, number = np.unique(code, return_index=True, return_inverse=True)
    is_twin = np.arange(num_kmers) - first[number] >= distance  # ``first``: of all that are equal
    return np.convolve(is_twin, np.ones(k, int)) > 0


def share(genome_file: Path, intervals_file: Path, split: str, length: int) -> tuple[float, int]:
    """The share of bases that were said before in rows that lie side by side, and the number of rows.

    Args:
        genome_file: FASTA or .2bit.
        intervals_file: ``contig start end split``.
        split: Of the intervals.
        length: Of a row, in bases.

    Raises:
        DataError: No interval of the split holds a row.
    """
    genome = open_genome(genome_file)
    found = []
    for interval in read_split_intervals(intervals_file, genome.contigs):
        if interval.split != split:
            continue
        starts = genome.locate(interval) + np.arange(len(interval) // length, dtype=np.int64) * length
        for row in genome.gather(starts, length):
            found.append(said_before((row & BASE_BITS).astype(np.int64) - FIRST_BASE).mean())
    if not found:
        raise DataError(f"{intervals_file} has no {split} interval of {length:,} bases")
    return float(np.mean(found)), len(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m benchmarks.copies FASTA BED --split valid --length N...``: a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copies", description=__doc__)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("intervals", type=Path, help="contig, start, end, split")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--length", type=int, nargs="+", default=[768, 3072, 6144, 12_288, 131_072])
    chosen = parser.parse_args(arguments)
    print("| row | rows | bases said before |\n|---|---|---|")
    for length in chosen.length:
        try:
            said, rows = share(chosen.fasta, chosen.intervals, chosen.split, length)
        except HNetNTV2Error as error:
            parser.error(str(error))
        print(f"| {length:,} | {rows:,} | {said:.2%} |", flush=True)


if __name__ == "__main__":
    main()
