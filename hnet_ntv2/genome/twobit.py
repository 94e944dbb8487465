"""Read UCSC's .2bit format by blocks: four bases per byte, beside them runs of N and of soft mask.

Layout (all integers 32-bit, in the byte order of the signature): signature 0x1A412743, version, number of sequences,
reserved; per sequence the length of its name (one byte), the name, and the offset of its record (64-bit in version 1);
per record the number of bases, N runs (count, starts, sizes), soft-masked runs (likewise), reserved, and the packed
bases, T 0, C 1, A 2, G 3, first base in the highest bits.

Source: the public format description, genome.ucsc.edu/FAQ/FAQformat.html#format7.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import GenomeError, shown
from ..vocabulary import SOFT_MASK, A, C, G, N, T
from .files import check_readable
from .interval import SpanIndex

SIGNATURE = 0x1A412743
BASE_OF_CODE = np.array([T, C, A, G], dtype=np.uint8)
# The four bases of each packed byte, [256, 4].
_UNPACK = BASE_OF_CODE[(np.arange(256)[:, None] >> np.array([6, 4, 2, 0])) & 3]


class _Record(NamedTuple):
    num_bases: int
    n_runs_at: int
    masked_runs_at: int
    packed_at: int


def is_twobit(path: str | os.PathLike[str]) -> bool:
    """Whether the file starts with the .2bit signature, in either byte order."""
    with Path(path).open("rb") as file:
        magic = file.read(4)
    return SIGNATURE in (int.from_bytes(magic, "little"), int.from_bytes(magic, "big"))


class TwoBitFile:
    """The contigs of a .2bit file, read through a memory map.

    Attributes:
        lengths: Bases of each contig, in the order of the file.

    Raises:
        GenomeError: if the file is missing, truncated, not a .2bit, or of an unknown version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = check_readable(path)
        # A plain array over the map: each slice of a np.memmap costs microseconds, and a contig takes a dozen.
        self._bytes = np.asarray(np.memmap(self._path, dtype=np.uint8, mode="r"))
        is_little = int.from_bytes(self._take(0, 4).tobytes(), "little") == SIGNATURE
        order = "<" if is_little else ">"
        self._uint32 = np.dtype(f"{order}u4")
        signature, version, count, _ = self._integers(0, 4)
        if signature != SIGNATURE or version not in (0, 1):
            raise GenomeError(f"{self._path} is not a .2bit file of version 0 or 1")
        self._records = self._read_records(int(count), np.dtype(f"{order}u{8 if version == 1 else 4}"))
        self.lengths = {name: record.num_bases for name, record in self._records.items()}

    def blocks(self, contig: str, block_size: int) -> Iterator[NDArray[np.uint8]]:
        """Stream a contig as encoded bases, at most ``block_size`` (rounded to a multiple of 4) at a time."""
        record = self._records[contig]
        n_runs, masked_runs = self._runs(record.n_runs_at), self._runs(record.masked_runs_at)
        step = max(block_size // 4 * 4, 4)  # so that each block starts with a whole packed byte
        for start in range(0, record.num_bases, step):
            end = min(start + step, record.num_bases)
            packed = self._take(record.packed_at + start // 4, (end - start + 3) // 4)
            bases = _UNPACK[packed].reshape(-1)[: end - start]
            # N first: a run of soft mask may cover N, which keeps the mask's bit.
            bases[n_runs.mask(start, end)] = N
            bases[masked_runs.mask(start, end)] |= SOFT_MASK
            yield bases

    def _read_records(self, count: int, offset_type: np.dtype) -> dict[str, _Record]:
        records: dict[str, _Record] = {}
        position = 16
        for _ in range(count):
            name_length = int(self._take(position, 1)[0])
            name = self._take(position + 1, name_length).tobytes().decode("utf-8", errors="replace")
            if name in records:
                raise GenomeError(f"{self._path} holds the contig {shown(name)} twice; contig names must be unique")
            position += 1 + name_length
            offset = int(self._take(position, offset_type.itemsize).view(offset_type)[0])
            position += offset_type.itemsize
            masked_runs_at = self._after_runs(offset + 4)
            packed_at = self._after_runs(masked_runs_at) + 4
            records[name] = _Record(self._integer(offset), offset + 4, masked_runs_at, packed_at)
            self._take(packed_at, (records[name].num_bases + 3) // 4)
        return records

    def _after_runs(self, offset: int) -> int:
        """Where the runs that begin at ``offset`` end."""
        count = self._integer(offset)
        self._take(offset + 4, 8 * count)
        return offset + 4 + 8 * count

    def _runs(self, offset: int) -> SpanIndex:
        starts, sizes = self._integers(offset + 4, 2 * self._integer(offset)).reshape(2, -1)
        return SpanIndex(starts, starts + sizes)

    def _integer(self, offset: int) -> int:
        return int(self._integers(offset, 1)[0])

    def _integers(self, offset: int, count: int) -> NDArray[np.int64]:
        return self._take(offset, 4 * count).view(self._uint32).astype(np.int64)

    def _take(self, offset: int, count: int) -> NDArray[np.uint8]:
        taken = self._bytes[offset : offset + count]
        if len(taken) != count:  # a slice past the end is shorter, not an error
            raise GenomeError(f"{self._path} is truncated or damaged: {count} bytes are missing at byte {offset}")
        return taken
