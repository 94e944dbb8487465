"""Opening the files a user names: plain or gzipped, with every failure told as a GenomeError."""

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import GenomeError

GZIP_MAGIC = b"\x1f\x8b"
# The empty block that bgzip writes last; a BGZF file without it was cut at a block boundary, which gzip cannot notice.
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def check_readable(path: str | os.PathLike[str]) -> Path:
    """Check that ``path`` is a file with something in it, and give it back as a Path.

    Raises:
        GenomeError: if it is missing, a directory, empty, or not readable.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise GenomeError(f"{path} does not exist; give the path of a FASTA, .2bit or BED file")
    if not path.is_file():
        raise GenomeError(f"{path} is not a file")
    if path.stat().st_size == 0:
        raise GenomeError(f"{path} is empty; was its download interrupted?")
    if not os.access(path, os.R_OK):
        raise GenomeError(f"{path} cannot be read: permission denied")
    return path


@contextmanager
def open_sequence_file(path: str | os.PathLike[str]) -> Iterator[tuple[io.BufferedIOBase, io.BufferedIOBase]]:
    """Open a plain, gzip or bgzip file for reading.

    Yields:
        The decompressed stream, and the raw one, whose ``tell()`` against the file's size is the progress.

    Raises:
        GenomeError: as ``check_readable``; also, while the block runs, for truncated or damaged gzip data.
    """
    path = check_readable(path)
    with path.open("rb") as raw, _damage_as_genome_error(path):
        magic = raw.read(18)
        raw.seek(0)
        if not magic.startswith(GZIP_MAGIC):
            yield raw, raw
            return
        _check_bgzf_end(path, raw, magic)
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream, raw


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


def _check_bgzf_end(path: Path, raw: io.BufferedIOBase, magic: bytes) -> None:
    is_bgzf = len(magic) >= 16 and magic[3] & 4 and magic[12:14] == b"BC"
    if not is_bgzf:
        return
    raw.seek(-min(len(_BGZF_END), path.stat().st_size), os.SEEK_END)
    if raw.read() != _BGZF_END:
        raise GenomeError(f"{path} is truncated: bgzip's end marker is missing; fetch or compress it again")
    raw.seek(0)


def text_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Lines of a plain or gzipped text file with their numbers from 1, without line ends.

    Raises:
        GenomeError: if the file is missing, empty, truncated, or not text.
    """
    with open_sequence_file(path) as (stream, _):
        for number, line in enumerate(stream, start=1):
            try:
                yield number, line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise GenomeError(f"{path}, line {number}: not text; is this the right file?") from error
