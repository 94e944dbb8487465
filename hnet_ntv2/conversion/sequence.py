"""Windows of a genome to calibrate routers and compare source blocks on, and held-out windows to report rates on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from ..errors import DataError
from ..genome import Genome, Interval, open_genome, read_split_intervals
from ..shapes import Int, Tensor
from ..vocabulary import BASE_BITS, MASK_ID, is_clean_base
from .calibrate import TEXT_BASES

_MOST_N = 0.02  # of a window: the rates shall be those of sequence


@dataclass(frozen=True)
class RealSequence:
    """Windows of a genome as character ids, without masks.

    Attributes:
        origin: Its name in a report.
        calibration: To set the routers and to compare the source's blocks.
        held_out: To report rates on.
        text: To count k-mers in (``chunker="entropy"``), about two million bases; None: ``calibration`` is counted.
    """

    origin: str
    calibration: Int[Tensor, "windows length"]
    held_out: Int[Tensor, "windows length"]
    text: Int[Tensor, "more length"] | None = None


def read_sequence(
    path: str | os.PathLike[str] | None = None,
    *,
    length: int = 1024,
    count: int = 8,
    with_text: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> RealSequence:
    """Read windows that are spread evenly over a genome.

    Args:
        path: FASTA or .2bit; None takes the bundled piece of chromosome 20, its training intervals to calibrate on and
            its validation intervals as held-out sequence. In a user's file every other window is held out.
        length: Bases per window.
        count: Windows of each kind.
        with_text: Also read ``text``.
        cache_dir: Of the genome's byte cache.

    Raises:
        DataError: There are too few windows with at most 2 % N.
        GenomeError: The file cannot be read.
    """
    if path is None:
        folder = Path(str(resources.files("hnet_ntv2.resources")))
        genome = open_genome(folder / "chr20_demo.2bit", cache_dir)
        intervals = read_split_intervals(folder / "chr20_demo.bed", genome.contigs)
        by_split = [[each for each in intervals if each.split == split] for split in ("train", "valid")]
        calibration, held_out = (_spread(genome, chosen, length, count) for chosen in by_split)
        text = _spread(genome, by_split[0], length, None) if with_text else None
        return RealSequence("the bundled piece of human chromosome 20", calibration, held_out, text)
    genome = open_genome(path, cache_dir)
    whole = [Interval(name, 0, size) for name, size in genome.contigs.items()]
    both = _spread(genome, whole, length, 2 * count)
    text = _spread(genome, whole, length, None) if with_text else None
    return RealSequence(Path(path).name, both[::2], both[1::2], text)


def _spread(
    genome: Genome, intervals: Sequence[Interval], length: int, count: int | None
) -> Int[Tensor, "windows length"]:
    """``count`` of the windows that lie side by side in the intervals, evenly spread; None: about two million bases."""
    pieces = [genome.locate(each) + np.arange(len(each) // length, dtype=np.int64) * length for each in intervals]
    starts = np.concatenate(pieces)
    num_n = genome.n_runs.count(starts, starts + length)
    usable = starts[num_n <= _MOST_N * length]
    if count is None:
        count = min(len(usable), TEXT_BASES // length)
    if len(usable) < count:
        raise DataError(
            f"{genome.source} has {len(usable)} windows of {length} bases with at most {_MOST_N:.0%} N; calibration "
            f"needs {count}: give a longer sequence"
        )
    # The middle of each of ``count`` equal parts of the list.
    chosen = usable[(2 * np.arange(count) + 1) * len(usable) // (2 * count)]
    # The soft mask (lower case) is dropped; long, since ids index embeddings.
    return torch.from_numpy(genome.gather(chosen, length) & BASE_BITS).long()


def mask_cells(
    windows: Int[Tensor, "windows length"], span: int, rate: float, generator: torch.Generator
) -> Int[Tensor, "windows length"]:
    """Mask about a fraction ``rate`` of A, C, G, T in spans of ``span`` bases."""
    num_rows, length = windows.shape
    # One offset per row: at a common one, spans would always begin at the same bases of a window.
    offset = torch.randint(span, (num_rows, 1), generator=generator)
    cell = (torch.arange(length) + offset) // span
    is_hidden = torch.rand(num_rows, length // span + 2, generator=generator).gather(1, cell) < rate
    return windows.masked_fill(is_hidden & is_clean_base(windows), MASK_ID)
