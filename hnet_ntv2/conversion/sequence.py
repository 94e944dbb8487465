"""Real sequence for what is measured at the start: pieces to calibrate on, and others that are held out."""

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from ..errors import DataError
from ..genome import Genome, SplitInterval, open_genome, read_split_intervals
from ..shapes import Int, Tensor
from ..vocabulary import BASE_BITS, MASK_ID, is_clean_base

_MOST_N = 0.02


@dataclass(frozen=True)
class RealSequence:
    """Windows of a genome as character ids, without masks.

    Attributes:
        origin: What to call it in a report.
        calibration: To set the routers and to compare the source's blocks.
        held_out: To report rates on.
    """

    origin: str
    calibration: Int[Tensor, "windows length"]
    held_out: Int[Tensor, "windows length"]


def read_sequence(
    path: str | os.PathLike[str] | None = None,
    *,
    length: int = 1024,
    count: int = 8,
    cache_dir: str | os.PathLike[str] | None = None,
) -> RealSequence:
    """Take windows spread evenly over a genome.

    Args:
        path: FASTA or .2bit; None takes the bundled piece of chromosome 20, its training intervals to calibrate on and
            its validation intervals as held-out sequence. In a user's file every other window is held out.
        length: Bases per window.
        count: Windows of each kind.
        cache_dir: Of the genome's byte cache.

    Raises:
        DataError: If there are too few windows with at most 2 % N.
        GenomeError: If the file cannot be read.
    """
    if path is None:
        folder = Path(str(resources.files("hnet_ntv2.resources")))
        genome = open_genome(folder / "chr20_demo.2bit", cache_dir)
        intervals = read_split_intervals(folder / "chr20_demo.bed", genome.contigs)
        parts = [_spread(genome, _starts(genome, intervals, split, length), length, count) for split in _SPLITS]
        return RealSequence("the bundled piece of human chromosome 20", *parts)
    genome = open_genome(path, cache_dir)
    whole = [SplitInterval(name, 0, size, "train") for name, size in genome.contigs.items()]
    both = _spread(genome, _starts(genome, whole, "train", length), length, 2 * count)
    return RealSequence(Path(path).name, both[::2], both[1::2])


_SPLITS = ("train", "valid")


def _starts(genome: Genome, intervals: list[SplitInterval], split: str, length: int) -> np.ndarray:
    """Positions in the genome of the windows that fit into the intervals of a split, side by side."""
    pieces = [
        genome.locate(interval) + np.arange(len(interval) // length, dtype=np.int64) * length
        for interval in intervals
        if interval.split == split
    ]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


def _spread(genome: Genome, starts: np.ndarray, length: int, count: int) -> Int[Tensor, "windows length"]:
    num_n = genome.n_runs.count(starts, starts + length)
    usable = starts[num_n <= _MOST_N * length]
    if len(usable) < count:
        raise DataError(
            f"{genome.source} has {len(usable)} windows of {length} bases with at most {_MOST_N:.0%} N; calibration "
            f"needs {count}: give a longer sequence"
        )
    chosen = usable[(2 * np.arange(count) + 1) * len(usable) // (2 * count)]
    return torch.from_numpy(genome.gather(chosen, length) & BASE_BITS).long()


def mask_cells(
    windows: Int[Tensor, "windows length"], span: int, rate: float, generator: torch.Generator
) -> Int[Tensor, "windows length"]:
    """Hide about a share ``rate`` of A, C, G, T in spans of ``span`` bases, each row cut at an offset of its own."""
    num_rows, length = windows.shape
    offset = torch.randint(span, (num_rows, 1), generator=generator)
    cell = (torch.arange(length) + offset) // span
    is_hidden = torch.rand(num_rows, length // span + 2, generator=generator).gather(1, cell) < rate
    return windows.masked_fill(is_hidden & is_clean_base(windows), MASK_ID)
