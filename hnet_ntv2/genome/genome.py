"""A genome on disk, one byte per base, from which windows are read. Knows how to read a cache, not how to build one.

Everything in a cache is checked before use. ``index.json`` holds a checksum of itself and of each small file. Each
block of 65,536 bases has a CRC-32, which is compared at the block's first read. So opening a genome of any size takes
milliseconds, and a window costs 10 microseconds more, once.
"""

import hashlib
import io
import json
import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GenomeError, IntervalError
from .contigs import ContigResolver
from .interval import Interval, SpanIndex

logger = logging.getLogger(__name__)

BASES, INDEX, N_RUNS, SUMS = "genome.u8", "index.json", "n_runs.npy", "sums.npy"
BLOCK_BITS = 16
"""A checksum covers 2^16 bases: a short window checks little, and hg38 has only 50,000 checksums."""


def checksum(data: bytes) -> str:
    """BLAKE2b (128 bits, hexadecimal)."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def index_checksum(index: dict[str, Any]) -> str:
    """Checksum of the content of ``index.json``."""
    return checksum(json.dumps(index).encode())


class Genome:
    """Read windows of a cached genome through a memory map; only the pages of a window are touched.

    Bases are bytes as in ``vocabulary``. Positions "in the genome" count along the contigs in the order of the file, as
    the windows of a training set are stored. Cheap to pickle: another process maps the same file.

    Args:
        folder: The cache.
        source: The file it was built from.
        rebuild: Builds the cache again; called if bases turn out to be damaged. None raises instead.

    Attributes:
        source: The file it was built from.
        fingerprint: Digest of that file's content.
        contigs: Length of each contig in bases, in the order of the file.
        offsets: Position in the genome of each contig's first base.
        n_runs: The runs of N, in positions in the genome.

    Raises:
        GenomeError: if the cache is incomplete or damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        source: str | os.PathLike[str],
        rebuild: Callable[[], None] | None = None,
    ) -> None:
        self._folder = Path(folder)
        self.source = Path(source)
        self._rebuild = rebuild
        self._load()
        self._resolver = ContigResolver(self.contigs, source=str(self.source))

    def __repr__(self) -> str:
        return f"Genome({str(self.source)!r}, {len(self.contigs)} contigs, {self.num_bases} bases)"

    # Without the map, which pickle would copy: a loader process maps the file itself.
    def __reduce__(self) -> tuple:
        return Genome, (self._folder, self.source, self._rebuild)

    def resolve(self, contig: str) -> str:
        """This genome's name for a contig in any naming style; raises ContigNotFound."""
        return self._resolver(contig)

    def locate(self, interval: Interval) -> int:
        """Position in the genome of the interval's first base.

        Raises:
            ContigNotFound: if the contig is unknown.
            IntervalError: if the interval goes past the contig's end.
        """
        contig = self.resolve(interval.contig)
        length = self.contigs[contig]
        if interval.end > length:
            whole = f"{contig!r}, which has {length} bases in {self.source}"
            raise IntervalError(f"{interval} goes past the end of {whole}")
        return self.offsets[contig] + interval.start

    def read(self, interval: Interval) -> NDArray[np.uint8]:
        """A copy of the interval's encoded bases; raises as ``locate``, and GenomeError as ``check``."""
        start = self.locate(interval)
        # A copy: the map is read-only, and callers write into what they get.
        return np.array(self._checked(start, start + len(interval)))

    def gather(self, starts: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
        """Read windows of equal length by their positions in the genome, as an array [windows, length].

        Raises:
            GenomeError: as ``check``.
        """
        windows = np.empty((len(starts), length), dtype=np.uint8)
        for row, start in enumerate(starts.tolist()):
            windows[row] = self._checked(start, start + length)
        return windows

    def check(self) -> None:
        """Compare all bases with their checksums.

        Raises:
            GenomeError: if they differ and there is nothing to build the cache again from.
        """
        self._checked(0, self.num_bases)

    def _checked(self, start: int, end: int) -> NDArray[np.uint8]:
        """Bases [start, end); blocks that are read for the first time are compared with their checksums."""
        blocks = slice(start >> BLOCK_BITS, ((end - 1) >> BLOCK_BITS) + 1)
        if not self._is_checked[blocks].all():
            self._compare(blocks)
        return self._bases[start:end]

    def _compare(self, blocks: slice) -> None:
        try:
            self._require_sums(blocks)
        except GenomeError as error:
            if self._rebuild is None:
                raise
            logger.warning("%s; it is built again", error)
            self._rebuild()
            self._load()
            self._require_sums(blocks)

    def _require_sums(self, blocks: slice) -> None:
        for block in range(blocks.start, blocks.stop):
            start = block << BLOCK_BITS
            if zlib.crc32(self._bases[start : start + (1 << BLOCK_BITS)].data) != self._sums[block]:
                raise GenomeError(f"the genome cache {self._folder} is damaged: wrong bases from byte {start} on")
        self._is_checked[blocks] = True

    def _load(self) -> None:
        try:
            index = self._load_index()
            # A plain array over the map: slicing a np.memmap costs more than reading a short window.
            self._bases = np.asarray(np.memmap(self._folder / BASES, dtype=np.uint8, mode="r"))
            self.n_runs = SpanIndex(*self._load_array(N_RUNS, index))
            self._sums = self._load_array(SUMS, index)
        except (OSError, ValueError) as error:
            raise GenomeError(f"the genome cache {self._folder} is incomplete or damaged: {error}") from error
        self.fingerprint: str = index["digest"]
        self.contigs: dict[str, int] = dict(index["contigs"])
        self.num_bases: int = index["num_bases"]
        ends = np.cumsum(list(self.contigs.values())).tolist()
        self.offsets: dict[str, int] = dict(zip(self.contigs, [0, *ends[:-1]], strict=True))
        if not len(self._bases) == self.num_bases == ends[-1]:
            raise GenomeError(f"the genome cache {self._folder} is incomplete: {len(self._bases)} of {ends[-1]} bases")
        self._is_checked = np.zeros(len(self._sums), dtype=np.bool_)

    def _load_index(self) -> dict[str, Any]:
        index = json.loads((self._folder / INDEX).read_bytes())
        own = index.pop("checksum", None) if isinstance(index, dict) else None
        if own != index_checksum(index):
            raise ValueError(f"{INDEX} is not what was written")
        return index

    def _load_array(self, name: str, index: dict[str, Any]) -> NDArray[Any]:
        data = (self._folder / name).read_bytes()
        if checksum(data) != index["files"][name]:
            raise ValueError(f"{name} is not what was written")
        return np.load(io.BytesIO(data), allow_pickle=False)
