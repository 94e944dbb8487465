"""How much of a sequence could be read off an earlier copy in the same row: the share of bases in repeated k-mers.

A chunker matters where the trunk looks something up in the row (benchmarks/tokenizers). This counts how often real DNA
offers that, for rows of several lengths.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnet_ntv2.errors import DataError, HNetNTV2Error
from hnet_ntv2.genome import Genome, Interval, open_genome, read_split_intervals
from hnet_ntv2.storage import open_text
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


def letters(genome: Genome, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """[rows, length] the bases that begin at some places of a genome, as ``said_before`` takes them."""
    return (genome.gather(starts, length) & BASE_BITS).astype(np.int64) - FIRST_BASE


class Row(NamedTuple):
    """A row of a genome.

    Attributes:
        interval: Where it lies.
        said: The share of its bases that were said before in it.
    """

    interval: Interval
    said: float


def rows_of(genome: Genome, intervals: Sequence[Interval], length: int) -> list[Row]:
    """Rows of a length that lie side by side in intervals, with what each says twice.

    Args:
        genome: Its bases.
        intervals: Of it; what is left behind their last whole row is not looked at.
        length: Of a row, in bases.

    Raises:
        DataError: No interval holds a row.
    """
    found = []
    for interval in intervals:
        starts = np.arange(len(interval) // length, dtype=np.int64) * length
        for start, row in zip(starts.tolist(), letters(genome, genome.locate(interval) + starts, length), strict=True):
            begin = interval.start + start
            found.append(Row(Interval(interval.contig, begin, begin + length), float(said_before(row).mean())))
    if not found:
        raise DataError(f"no interval holds a row of {length:,} bases")
    return found


def merged(rows: Sequence[Row]) -> list[Interval]:
    """Rows as intervals; neighbours are one."""
    found: list[Interval] = []
    for row in rows:
        if found and found[-1].contig == row.interval.contig and found[-1].end == row.interval.start:
            found[-1] = Interval(row.interval.contig, found[-1].start, row.interval.end)
        else:
            found.append(row.interval)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m benchmarks.copies FASTA BED [--length N...] [--write BED]``: a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copies", description=__doc__)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("intervals", type=Path, help="contig, start, end, split")
    parser.add_argument("--split", default="valid", help="whose rows are counted")
    parser.add_argument("--length", type=int, nargs="+", default=[768, 3072, 6144, 12_288, 131_072])
    parser.add_argument("--write", type=Path, help="BED file: the split's rows with copies, and all other splits")
    parser.add_argument("--least", type=float, default=0.05, help="share that a row with copies has said before")
    chosen = parser.parse_args(arguments)
    if chosen.write is not None and len(chosen.length) != 1:
        parser.error("--write takes the rows of one length: name it with --length, such as --length 768")
    try:
        genome = open_genome(chosen.fasta)
        intervals = read_split_intervals(chosen.intervals, genome.contigs)
        of_split = [each for each in intervals if each.split == chosen.split]
        print("| row | rows | bases said before |\n|---|---|---|")
        for length in chosen.length:
            rows = rows_of(genome, of_split, length)
            print(f"| {length:,} | {len(rows):,} | {np.mean([row.said for row in rows]):.2%} |", flush=True)
            if chosen.write is not None:
                kept = [(each, chosen.split) for each in merged([row for row in rows if row.said >= chosen.least])]
                kept += [(each, each.split) for each in intervals if each.split != chosen.split]
                with open_text(chosen.write) as file:
                    file.writelines(f"{each.contig}\t{each.start}\t{each.end}\t{split}\n" for each, split in kept)
    except HNetNTV2Error as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
