"""Open files that a user names: plain or gzipped, file or pipe. Every failure is a GenomeError."""

import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from ..errors import GenomeError

GZIP_MAGIC = b"\x1f\x8b"
# The empty block that bgzip writes last; a BGZF file without it was cut at a block boundary, which gzip cannot notice.
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_MAGIC_BYTES = 18  # up to the end of bgzip's own field in the gzip header
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A compressed file of a few kilobytes can hold one line of gigabytes; no line of a table comes near this.
MAX_LINE = 1 << 24
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")


def whole_number(text: str) -> int | None:
    """The number that the text writes in ASCII digits; None for anything else that ``int`` takes (``1_0``, ``²``).

    Also None from 19 digits on: no coordinate has as many, and ``int`` takes quadratic time.
    """
    if len(text) <= 18 and text.isdigit() and text.isascii():  # the usual case, three times as fast as the pattern
        return int(text)
    text = text.strip()
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else None


def is_bgzip(magic: bytes) -> bool:
    """Whether a file whose first 18 bytes are ``magic`` is bgzip: gzip with an extra field BC."""
    return magic.startswith(GZIP_MAGIC) and len(magic) >= 16 and bool(magic[3] & 4) and magic[12:14] == b"BC"


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether an existing path is a pipe or device, which can be read once only."""
    mode = Path(path).expanduser().stat().st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def check_readable(path: str | os.PathLike[str]) -> Path:
    """Check that ``path`` is a pipe, or a file with something in it, and return it as a Path.

    ``-`` is standard input, as it is standard output where files are written.

    Raises:
        GenomeError: if it is missing, a directory, an empty file, or not readable.
    """
    path = Path("/dev/stdin" if os.fspath(path) == "-" else path).expanduser()
    if not path.exists():
        raise GenomeError(f"{path} does not exist; give the path of a FASTA, .2bit or BED file")
    if not (path.is_file() or is_pipe(path)):
        raise GenomeError(f"{path} is not a file")
    if path.is_file() and path.stat().st_size == 0:
        raise GenomeError(f"{path} is empty; was its download interrupted?")
    if not os.access(path, os.R_OK):
        raise GenomeError(f"{path} cannot be read: permission denied")
    return path


def check_rereadable(path: str | os.PathLike[str], what: str) -> Path:
    """``check_readable`` for a file that is read more than once, which a pipe cannot be.

    Args:
        path: The file.
        what: What it is, for the error.

    Raises:
        GenomeError: as ``check_readable``, and for a pipe.
    """
    path = check_readable(path)
    if is_pipe(path):
        raise GenomeError(f"{path}: a pipe cannot be read twice, as {what} must be; write it to a file first")
    return path


class _Source(io.RawIOBase):
    """The bytes of a file or pipe, read once from start to end.

    Attributes:
        magic: Its first bytes, at most 18.
        tail: The last bytes read so far.
        at_end: Whether the end was reached.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.magic = self._ahead = file.read(_MAGIC_BYTES)
        self.tail = b""
        self.at_end = False
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:
        if self._ahead:
            data, self._ahead = self._ahead[: len(buffer)], self._ahead[len(buffer) :]
        else:
            data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        self.tail = (self.tail + data[-len(_BGZF_END) :])[-len(_BGZF_END) :]
        self.at_end = not data
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position


@contextmanager
def open_sequence_file(path: str | os.PathLike[str]) -> Iterator[tuple[io.BufferedIOBase, io.RawIOBase]]:
    """Open a plain, gzip or bgzip file or pipe for reading; a byte order mark at its start is skipped.

    Yields:
        The decompressed stream, and the raw one, whose ``tell()`` against the file's size is the progress.

    Raises:
        GenomeError: as ``check_readable``; also, while the block runs, for truncated or damaged gzip data.
    """
    path = check_readable(path)
    with path.open("rb") as file, _damage_as_genome_error(path):
        source = _Source(file)
        if not source.magic:
            raise GenomeError(f"{path} is empty; did the program that writes into it fail?")
        is_bgzf = is_bgzip(source.magic)
        if is_bgzf and file.seekable():
            with path.open("rb") as again:  # now rather than after minutes of reading
                again.seek(-min(len(_BGZF_END), path.stat().st_size), os.SEEK_END)
                _check_bgzf_end(path, again.read())
        buffered = io.BufferedReader(source, buffer_size=1 << 17)
        is_gzip = source.magic.startswith(GZIP_MAGIC)
        with gzip.GzipFile(fileobj=buffered) if is_gzip else buffered as stream:
            if stream.peek(len(BYTE_ORDER_MARK)).startswith(BYTE_ORDER_MARK):
                stream.read(len(BYTE_ORDER_MARK))
            yield stream, source
        if is_bgzf and source.at_end:
            _check_bgzf_end(path, source.tail)


@contextmanager
def _damage_as_genome_error(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise GenomeError(f"{path} is truncated: its gzip data end too early; fetch or compress it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise GenomeError(f"{path} is damaged: {error}; fetch or compress it again") from error
    except BrokenPipeError:
        raise  # of a terminal that shows progress, not of this file
    except OSError as error:
        raise GenomeError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_bgzf_end(path: Path, end: bytes) -> None:
    if end != _BGZF_END:
        raise GenomeError(f"{path} is truncated: bgzip's end marker is missing; fetch or compress it again")


def text_rows(path: str | os.PathLike[str], longest: int = MAX_LINE) -> Iterator[tuple[int, str]]:
    """Lines of a plain or gzipped text file or pipe with their numbers from 1, without line ends.

    Line ends may be those of Unix, Windows or old Macs. Bytes that are no UTF-8 become U+FFFD: they matter only where
    a name is compared.

    Raises:
        GenomeError: if the file is missing, empty, truncated, or not text, or a line has more than ``longest``
            characters.
    """
    with (
        open_sequence_file(path) as (stream, _),
        io.TextIOWrapper(cast(IO[bytes], stream), "utf-8", "replace") as text,
    ):
        number = 0
        while line := text.readline(longest + 1):
            number += 1
            if len(line) > longest:
                raise GenomeError(f"{path}, line {number} is longer than {longest:,} characters; is this a table?")
            if "\0" in line:
                raise GenomeError(f"{path}, line {number}: not text; is this the right file?")
            yield number, line.removesuffix("\n")
