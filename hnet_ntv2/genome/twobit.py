"""UCSC's .2bit format: read by blocks and write. Four bases per byte, with N runs and soft-masked runs beside them.

Layout (all integers 32-bit, in the byte order of the signature): signature 0x1A412743, version, number of sequences,
reserved; per sequence the length of its name (one byte), the name, and the offset of its record (64-bit in version 1);
per record the number of bases, N runs (count, starts, sizes), soft-masked runs (likewise), reserved, and the packed
bases, T 0, C 1, A 2, G 3, first base in the highest bits.

Source: the public format description, genome.ucsc.edu/FAQ/FAQformat.html#format7.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import GenomeError
from ..storage import appearing_file
from .alphabet import BASE_BITS, SOFT_MASK, A, C, G, N, T, is_n
from .files import check_readable
from .interval import SpanIndex

_SIGNATURE = 0x1A412743
_BASE_OF_CODE = np.array([T, C, A, G], dtype=np.uint8)


def _unpacking_table() -> NDArray[np.uint8]:
    codes = (np.arange(256)[:, None] >> np.array([6, 4, 2, 0])) & 3
    return _BASE_OF_CODE[codes]


_UNPACK = _unpacking_table()


class _Record(NamedTuple):
    num_bases: int
    n_runs: SpanIndex
    masked_runs: SpanIndex
    packed_at: int


def is_twobit(path: str | os.PathLike[str]) -> bool:
    """Whether the file starts with the .2bit signature, in either byte order."""
    with Path(path).open("rb") as file:
        magic = file.read(4)
    return _SIGNATURE in (int.from_bytes(magic, "little"), int.from_bytes(magic, "big"))


class TwoBitFile:
    """Random access to the contigs of a .2bit file through a memory map.

    Attributes:
        lengths: Bases of each contig, in the order of the file.

    Raises:
        GenomeError: if the file is missing, truncated, not a .2bit, or of an unknown version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = check_readable(path)
        self._bytes = np.memmap(self._path, dtype=np.uint8, mode="r")
        order = "<" if int.from_bytes(self._take(0, 4).tobytes(), "little") == _SIGNATURE else ">"
        self._uint32 = np.dtype(f"{order}u4")
        self._uint64 = np.dtype(f"{order}u8")
        signature, version, count, _ = self._integers(0, 4)
        if signature != _SIGNATURE or version not in (0, 1):
            raise GenomeError(f"{self._path} is not a .2bit file of version 0 or 1")
        self._records = self._read_records(int(count), self._uint64 if version == 1 else self._uint32)
        self.lengths = {name: record.num_bases for name, record in self._records}

    def blocks(self, contig: str, block_size: int) -> Iterator[NDArray[np.uint8]]:
        """Stream a contig as encoded bases, at most ``block_size`` (rounded to a multiple of 4) at a time."""
        record = next(record for name, record in self._records if name == contig)
        step = max(block_size // 4 * 4, 4)
        for start in range(0, record.num_bases, step):
            yield self._decode(record, start, min(start + step, record.num_bases))

    def _decode(self, record: _Record, start: int, end: int) -> NDArray[np.uint8]:
        """Bases [start, end) of a record; start is a multiple of 4."""
        packed = self._take(record.packed_at + start // 4, (end - start + 3) // 4)
        bases = _UNPACK[packed].reshape(-1)[: end - start]
        bases[record.n_runs.mask(start, end)] = N
        bases[record.masked_runs.mask(start, end)] |= SOFT_MASK
        return bases

    def _read_records(self, count: int, offset_type: np.dtype) -> list[tuple[str, _Record]]:
        records = []
        names: set[str] = set()
        position = 16
        for _ in range(count):
            name_length = int(self._take(position, 1)[0])
            name = self._take(position + 1, name_length).tobytes().decode("utf-8", errors="replace")
            if name in names:
                raise GenomeError(f"{self._path} holds the contig {name!r} twice; contig names must be unique")
            names.add(name)
            position += 1 + name_length
            offset = self._take(position, offset_type.itemsize).view(offset_type)[0]
            position += offset_type.itemsize
            records.append((name, self._read_record(int(offset))))
        return records

    def _read_record(self, offset: int) -> _Record:
        num_bases = int(self._integers(offset, 1)[0])
        n_runs, offset = self._read_runs(offset + 4)
        masked_runs, offset = self._read_runs(offset)
        record = _Record(num_bases, n_runs, masked_runs, packed_at=offset + 4)
        self._take(record.packed_at, (num_bases + 3) // 4)
        return record

    def _read_runs(self, offset: int) -> tuple[SpanIndex, int]:
        count = int(self._integers(offset, 1)[0])
        starts = self._integers(offset + 4, count).astype(np.int64)
        sizes = self._integers(offset + 4 + 4 * count, count).astype(np.int64)
        return SpanIndex(starts, starts + sizes), offset + 4 + 8 * count

    def _integers(self, offset: int, count: int) -> NDArray[np.uint32]:
        return self._take(offset, 4 * count).view(self._uint32).astype(np.uint32)

    def _take(self, offset: int, count: int) -> NDArray[np.uint8]:
        taken = self._bytes[offset : offset + count]
        if len(taken) != count:
            raise GenomeError(f"{self._path} is truncated or damaged: {count} bytes are missing at byte {offset}")
        return np.asarray(taken)


def write_twobit(path: str | os.PathLike[str], contigs: Mapping[str, NDArray[np.uint8]]) -> None:
    """Write encoded contigs as a little-endian .2bit file of version 0; N and soft-mask runs are kept.

    Args:
        path: File to write.
        contigs: Encoded bases by contig name.

    Raises:
        GenomeError: if a contig is empty, or a name is longer than the format's 255 bytes.
        ConfigError: if the place cannot be written.
    """
    names = {name: name.encode() for name in contigs}
    for name, bases in contigs.items():
        if len(bases) == 0 or not 0 < len(names[name]) <= 255:
            raise GenomeError(f"contig {name[:40]!r} of {len(bases)} bases cannot be stored in a .2bit file")
    records = [_packed_record(bases) for bases in contigs.values()]
    offset = 16 + sum(5 + len(name) for name in names.values())
    with appearing_file(path) as partial, partial.open("wb") as file:
        file.write(np.array([_SIGNATURE, 0, len(records), 0], dtype="<u4").tobytes())
        for name, record in zip(names.values(), records, strict=True):
            file.write(bytes([len(name)]) + name + np.array([offset], dtype="<u4").tobytes())
            offset += len(record)
        file.writelines(records)


def _packed_record(bases: NDArray[np.uint8]) -> bytes:
    header = b"".join(_packed_runs(flags) for flags in (is_n(bases), bases >= SOFT_MASK))
    code_of_base = np.zeros(BASE_BITS + 1, dtype=np.uint8)
    code_of_base[_BASE_OF_CODE] = np.arange(4, dtype=np.uint8)
    codes = np.zeros((len(bases) + 3) // 4 * 4, dtype=np.uint8)
    codes[: len(bases)] = code_of_base[bases & BASE_BITS]
    first, second, third, fourth = codes.reshape(-1, 4).T
    packed = first << 6 | second << 4 | third << 2 | fourth
    zero = b"\0\0\0\0"
    return np.array([len(bases)], dtype="<u4").tobytes() + header + zero + packed.tobytes()


def _packed_runs(flags: NDArray[np.bool_]) -> bytes:
    starts, ends = find_runs(flags)
    return np.concatenate(([len(starts)], starts, ends - starts)).astype("<u4").tobytes()


def find_runs(flags: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends (half-open) of the runs of true values."""
    edges = np.flatnonzero(np.diff(flags.view(np.int8), prepend=np.int8(0), append=np.int8(0)))
    return edges[0::2].astype(np.int64), edges[1::2].astype(np.int64)
