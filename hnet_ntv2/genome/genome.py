"""A genome on disk, one byte per base, from which windows are read. Knows how to read a cache, not how to build one."""

import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import GenomeError, IntervalError
from .contigs import resolve
from .interval import Interval, SpanIndex


class Genome:
    """Read windows of a cached genome through a memory map; only the pages of a window are touched.

    Bases are bytes as in ``alphabet``. Positions "in the genome" count along the contigs in the order of the file, as
    the windows of a training set are stored. Cheap to pickle: another process maps the same file.

    Attributes:
        source: The file it was built from.
        fingerprint: Digest of that file's content.
        contigs: Length of each contig in bases, in the order of the file.
        offsets: Position in the genome of each contig's first base.
        n_runs: The runs of N, in positions in the genome.

    Raises:
        GenomeError: if the cache is incomplete.
    """

    def __init__(self, folder: str | os.PathLike[str], source: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self.source = Path(source)
        index = self._load_index()
        self.fingerprint: str = index["digest"]
        self.contigs: dict[str, int] = dict(index["contigs"])
        ends = np.cumsum(list(self.contigs.values())).tolist()
        self.offsets: dict[str, int] = dict(zip(self.contigs, [0, *ends[:-1]], strict=True))
        self.num_bases: int = index["num_bases"]

    def __repr__(self) -> str:
        return f"Genome({str(self.source)!r}, {len(self.contigs)} contigs, {self.num_bases} bases)"

    def __getstate__(self) -> dict:
        return {"folder": self._folder, "source": self.source}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def resolve(self, contig: str) -> str:
        """This genome's name for a contig in any naming style; raises ContigNotFound."""
        return resolve(contig, self.contigs, source=str(self.source))

    def locate(self, interval: Interval) -> int:
        """Position in the genome of the interval's first base.

        Raises:
            ContigNotFound: if the contig is unknown.
            IntervalError: if the interval goes past the contig's end.
        """
        contig = self.resolve(interval.contig)
        length = self.contigs[contig]
        if interval.end > length:
            raise IntervalError(
                f"{interval} goes past the end of {contig!r}, which has {length} bases in {self.source}"
            )
        return self.offsets[contig] + interval.start

    def read(self, interval: Interval) -> NDArray[np.uint8]:
        """A copy of the interval's encoded bases; raises as ``locate``."""
        start = self.locate(interval)
        return np.array(self._bases[start : start + len(interval)])

    def gather(self, starts: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
        """Read windows of equal length by their positions in the genome, as an array [windows, length]."""
        windows = np.empty((len(starts), length), dtype=np.uint8)
        for row, start in enumerate(starts.tolist()):
            windows[row] = self._bases[start : start + length]
        return windows

    def _load_index(self) -> dict:
        try:
            index = json.loads((self._folder / "index.json").read_text())
            # A plain array over the map: slicing a np.memmap costs more than reading a short window.
            self._bases = np.asarray(np.memmap(self._folder / "genome.u8", dtype=np.uint8, mode="r"))
            self.n_runs = SpanIndex(*np.load(self._folder / "n_runs.npy"))
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise GenomeError(f"the genome cache {self._folder} is incomplete: {error}") from error
        if len(self._bases) != index["num_bases"]:
            raise GenomeError(
                f"the genome cache {self._folder} is incomplete: {len(self._bases)} of {index['num_bases']} bases"
            )
        return index
