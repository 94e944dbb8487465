"""Compress as bgzip does: gzip members of at most 64 KiB, so that a reader can start at any of them.

pysam's writer is not used: on a full disk it loses the reason, or ends the process.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

# Uncompressed bytes of a block; even incompressible ones then fit the format's 16-bit block size.
BLOCK_BYTES = 0xFF00
_HEADER = struct.Struct("<4BI2BH2B2H")
_FOOTER = struct.Struct("<2I")


@contextmanager
def bgzip_writer(file: BinaryIO) -> Iterator["BgzipWriter"]:
    """Compress into a binary file, which is not closed."""
    writer = BgzipWriter(file)
    yield writer
    # Not after an error, when the file must not look complete.
    writer.flush()
    file.write(_block(b""))  # the format's mark of the end, by which htslib knows a cut file


class BgzipWriter:
    """Takes bytes, and writes compressed blocks of them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._waiting = bytearray()

    def write(self, data: bytes) -> int:
        """Take bytes, and write the blocks that are full."""
        self._waiting += data
        while len(self._waiting) >= BLOCK_BYTES:
            self._file.write(_block(bytes(self._waiting[:BLOCK_BYTES])))
            del self._waiting[:BLOCK_BYTES]
        return len(data)

    def flush(self) -> None:
        """Write the waiting bytes as a block of their own."""
        if self._waiting:
            self._file.write(_block(bytes(self._waiting)))
            self._waiting.clear()
        self._file.flush()


def _block(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)  # negative: no zlib header, since gzip's is written here
    body = compressor.compress(data) + compressor.flush()
    size = _HEADER.size + len(body) + _FOOTER.size
    # gzip's magic, deflate, "has an extra field"; no time, no flags, unknown system; the extra field holds size - 1.
    header = _HEADER.pack(31, 139, 8, 4, 0, 0, 255, 6, ord("B"), ord("C"), 2, size - 1)
    return header + body + _FOOTER.pack(zlib.crc32(data), len(data))
