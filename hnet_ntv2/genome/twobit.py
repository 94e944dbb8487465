"""Read (by blocks) and write UCSC's .2bit format: four bases per byte, beside them runs of N and of soft mask.

Layout (all integers 32-bit, in the byte order of the signature): signature 0x1A412743, version, number of sequences,
reserved; per sequence the length of its name (one byte), the name, and the offset of its record (64-bit in version 1);
per record the number of bases, N runs (count, starts, sizes), soft-masked runs (likewise), reserved, and the packed
bases, T 0, C 1, A 2, G 3, first base in the highest bits.

Source: the public format description, genome.ucsc.edu/FAQ/FAQformat.html#format7.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import GenomeError, shown
from ..storage import appearing_file
from ..vocabulary import BASE_BITS, SOFT_MASK, A, C, G, N, T, is_n
from .files import check_readable

_SIGNATURE = 0x1A412743
_BASE_OF_CODE = np.array([T, C, A, G], dtype=np.uint8)


# The four bases of each packed byte, [256, 4].
_UNPACK = _BASE_OF_CODE[(np.arange(256)[:, None] >> np.array([6, 4, 2, 0])) & 3]


class _Record(NamedTuple):
    num_bases: int
    n_runs_at: int
    masked_runs_at: int
    packed_at: int


class _Runs(NamedTuple):
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def inside(self, start: int, end: int) -> Iterator[slice]:
        """The part of each run that lies in [start, end), counted from ``start``."""
        if not len(self.starts):
            return
        firsts, lasts = np.maximum(self.starts, start) - start, np.minimum(self.ends, end) - start
        is_inside = firsts < lasts
        for first, last in zip(firsts[is_inside].tolist(), lasts[is_inside].tolist(), strict=True):
            yield slice(first, last)


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
        # A plain array over the map: each slice of a np.memmap costs microseconds, and a contig takes a dozen.
        self._bytes = np.asarray(np.memmap(self._path, dtype=np.uint8, mode="r"))
        is_little = int.from_bytes(self._take(0, 4).tobytes(), "little") == _SIGNATURE
        self._order: Literal["little", "big"] = "little" if is_little else "big"
        self._uint32 = np.dtype("<u4" if is_little else ">u4")
        signature, version, count, _ = self._integers(0, 4)
        if signature != _SIGNATURE or version not in (0, 1):
            raise GenomeError(f"{self._path} is not a .2bit file of version 0 or 1")
        self._records = self._read_records(int(count), offset_bytes=8 if version == 1 else 4)
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
            for run in n_runs.inside(start, end):
                bases[run] = N
            for run in masked_runs.inside(start, end):
                bases[run] |= SOFT_MASK
            yield bases

    def _read_records(self, count: int, offset_bytes: int) -> dict[str, _Record]:
        records: dict[str, _Record] = {}
        position = 16
        for _ in range(count):
            name_length = int(self._take(position, 1)[0])
            name = self._take(position + 1, name_length).tobytes().decode("utf-8", errors="replace")
            if name in records:
                raise GenomeError(f"{self._path} holds the contig {shown(name)} twice; contig names must be unique")
            position += 1 + name_length
            offset = int.from_bytes(self._take(position, offset_bytes).tobytes(), self._order)
            position += offset_bytes
            records[name] = self._read_record(offset)
        return records

    def _read_record(self, offset: int) -> _Record:
        masked_runs_at = self._after_runs(offset + 4)
        packed_at = self._after_runs(masked_runs_at) + 4
        record = _Record(self._integer(offset), offset + 4, masked_runs_at, packed_at)
        self._take(record.packed_at, (record.num_bases + 3) // 4)
        return record

    def _after_runs(self, offset: int) -> int:
        """Where the runs that begin at ``offset`` end."""
        count = self._integer(offset)
        self._take(offset + 4, 8 * count)
        return offset + 4 + 8 * count

    def _runs(self, offset: int) -> _Runs:
        count = self._integer(offset)
        starts = self._integers(offset + 4, count).astype(np.int64)
        sizes = self._integers(offset + 4 + 4 * count, count).astype(np.int64)
        return _Runs(starts, starts + sizes)

    def _integer(self, offset: int) -> int:
        return int.from_bytes(self._take(offset, 4).tobytes(), self._order)

    def _integers(self, offset: int, count: int) -> NDArray[np.uint32]:
        return self._take(offset, 4 * count).view(self._uint32).astype(np.uint32)

    def _take(self, offset: int, count: int) -> NDArray[np.uint8]:
        taken = self._bytes[offset : offset + count]
        if len(taken) != count:  # a slice past the end is shorter, not an error
            raise GenomeError(f"{self._path} is truncated or damaged: {count} bytes are missing at byte {offset}")
        return taken


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
            raise GenomeError(f"contig {shown(name)} of {len(bases)} bases cannot be stored in a .2bit file")
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
    # N is packed as T (0); its run says what it is.
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
