"""Read a genome file (FASTA plain, gzip, bgzip; .2bit) as a stream of encoded blocks; never a chromosome at once."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import GenomeError, shown
from ..vocabulary import ENCODE
from .files import check_readable, is_pipe, open_sequence_file
from .twobit import TwoBitFile, is_twobit

BLOCK_BYTES = 1 << 22
# A compressed file of a few kilobytes can hold one header of gigabytes; real ones have some hundred characters.
MAX_HEADER = 1 << 20
Progress = Callable[[int, int], None]
"""Called with the bytes of the source file read so far, and its size."""

_ENCODE_BYTES = ENCODE.tobytes()
_BLANKS = b"\n \t"
_OTHER_FORMATS = {
    b"PK": "a zip archive", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"<": "HTML or XML (a download page?)", b"LOCUS": "GenBank", b"@": "FASTQ", b"\xff\xfe": "UTF-16 text",
    b"\x43\x27\x41": "a .2bit file, which cannot come from a pipe or compressed",
    b"\x1a\x41\x27": "a .2bit file, which cannot come from a pipe or compressed",
}  # fmt: skip


class SequenceBlock(NamedTuple):
    """The next bases of a contig; a contig's blocks follow one another, the contigs in the order of the file."""

    contig: str
    bases: NDArray[np.uint8]


def read_genome_blocks(
    path: str | os.PathLike[str], progress: Progress | None = None, block_size: int = BLOCK_BYTES
) -> Iterator[SequenceBlock]:
    """Stream the contigs of a genome file, recognising its format by content; a pipe is read once.

    Args:
        path: FASTA (plain, gzip or bgzip; blanks and tabs in sequence lines are skipped) or .2bit.
        progress: Called after each block.
        block_size: Largest number of bytes read, and so of bases given, at a time.

    Raises:
        GenomeError: if the file is missing, empty, truncated, not a FASTA, holds a letter outside IUPAC (the error
            names contig and line), a header longer than ``MAX_HEADER``, or a contig twice, without sequence, or with a
            control character in its name.
    """
    path = check_readable(path)
    # .2bit needs random access, which a pipe has not.
    blocks = _twobit_blocks if not is_pipe(path) and is_twobit(path) else _fasta_blocks
    yield from _checked_contigs(path, blocks(path, progress, block_size))


def _checked_contigs(path: Path, blocks: Iterator[SequenceBlock]) -> Iterator[SequenceBlock]:
    """Yield the blocks; refuse a contig that comes twice or has no base."""
    lengths: dict[str, int] = {}
    current = None
    for block in blocks:
        if block.contig != current or len(block.bases) == 0:
            _require_sequence(path, lengths, current)
            # A name goes into BED lines and to the terminal: a tab would add a column, an escape sequence a command.
            if not block.contig or not block.contig.isprintable():
                name = shown(block.contig)
                raise GenomeError(
                    f"{path}: the contig name {name} is empty or holds a tab or control character; rename it"
                )
            if block.contig in lengths:
                raise GenomeError(f"{path} holds the contig {shown(block.contig)} twice; contig names must be unique")
            current = block.contig
            lengths[current] = 0
        lengths[block.contig] += len(block.bases)
        if len(block.bases):
            yield block
    _require_sequence(path, lengths, current)
    if not lengths:
        raise GenomeError(f"{path} holds no contig")


def _require_sequence(path: Path, lengths: dict[str, int], contig: str | None) -> None:
    if contig is not None and lengths[contig] == 0:
        raise GenomeError(f"{path}: the contig {shown(contig)} has no sequence; is the file truncated?")


def _twobit_blocks(path: Path, progress: Progress | None, block_size: int) -> Iterator[SequenceBlock]:
    file = TwoBitFile(path)
    total = max(sum(file.lengths.values()), 1)
    size = path.stat().st_size
    done = 0
    for contig in file.lengths:
        # As in FASTA, an empty block opens the contig, so that a repeated or empty one is noticed.
        yield SequenceBlock(contig, np.empty(0, dtype=np.uint8))
        for bases in file.blocks(contig, block_size):
            yield SequenceBlock(contig, bases)
            done += len(bases)
            if progress is not None:
                progress(size * done // total, size)


def read_fasta_records(path: str | os.PathLike[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Whole header and encoded bases of each record of a FASTA, one at a time; headers may recur, and bases be none.

    Raises:
        GenomeError: as ``read_genome_blocks``, except for what it says of contigs.
    """
    header, blocks = "", []
    for block in _fasta_blocks(check_readable(path), None, BLOCK_BYTES, whole_headers=True):
        if len(block.bases):
            blocks.append(block.bases)
            continue
        if blocks:  # an empty block opens a record; the one of no bases stands first
            yield header, np.concatenate(blocks)
        header, blocks = block.contig, [block.bases]
    yield header, np.concatenate(blocks)


def _fasta_blocks(
    path: Path, progress: Progress | None, block_size: int, whole_headers: bool = False
) -> Iterator[SequenceBlock]:
    size = path.stat().st_size
    with open_sequence_file(path) as (stream, raw):
        parser = _FastaParser(path, whole_headers)
        for chunk in _unix_line_ends(iter(partial(stream.read, block_size), b"")):
            yield from parser.feed(chunk)
            if progress is not None:
                progress(raw.tell(), size)
        yield from parser.finish()


def _unix_line_ends(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Turn the line ends of Windows and of old Macs into "\\n"; a chunk may end between "\\r" and "\\n"."""
    held = b""
    for chunk in chunks:
        text = held + chunk
        # Kept for the next chunk, whose first byte says whether this is one line end or two.
        held = b"\r" if text.endswith(b"\r") else b""
        if b"\r" in text:
            text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield text
    if held:
        yield b"\n"


class _FastaParser:
    """Cuts raw chunks, which may end anywhere, into headers and encoded sequence."""

    def __init__(self, path: Path, whole_headers: bool) -> None:
        self._path = path
        self._whole_headers = whole_headers
        self._line = 0
        self._contig = ""
        # Left for the next chunk: a line end, which ">" may follow, or one and a header that is not complete.
        self._held = b"\n"

    def feed(self, chunk: bytes) -> Iterator[SequenceBlock]:
        """Parse the next chunk of the file."""
        text = self._held + chunk
        if not self._contig:
            text = self._skip_to_first_header(text)
        before, line_end, last = text.rpartition(b"\n")
        is_held = line_end and (not last or last.startswith(b">"))
        text, self._held = (before, line_end + last) if is_held else (text, b"")
        for number, part in enumerate(text.split(b"\n>")):
            if number:
                header = part.partition(b"\n")[0]
                yield self._open_contig(header)
                part = part[len(header) :]
            # translate drops line ends and blanks in the same pass.
            encoded = part.translate(_ENCODE_BYTES, _BLANKS)
            if b"\0" in encoded:
                self._refuse_letter(part)
            self._line += part.count(b"\n")
            if encoded:
                yield SequenceBlock(self._contig, np.frombuffer(encoded, dtype=np.uint8))
        if len(self._held) - len(b"\n>") > MAX_HEADER:
            self._open_contig(self._held)  # raises: such a header would fill the memory

    def finish(self) -> Iterator[SequenceBlock]:
        """Close the file: a header on the last line still opens its contig."""
        if self._held.startswith(b"\n>"):
            yield self._open_contig(self._held.removeprefix(b"\n>"))
        elif not self._contig:
            raise GenomeError(f"{self._path} is empty: it holds no line with text")

    def _skip_to_first_header(self, chunk: bytes) -> bytes:
        """The text from its first letter on, behind the line end that a header is recognised by."""
        text = chunk.lstrip()
        self._line += chunk[: len(chunk) - len(text)].count(b"\n") - 1
        if text and not text.startswith(b">"):
            kind = next((name for magic, name in _OTHER_FORMATS.items() if text.startswith(magic)), None)
            start = shown(text[:20].decode("utf-8", errors="replace"))
            hint = f"it looks like {kind}" if kind else f"its first line starts with {start}"
            raise GenomeError(f"{self._path} is not a FASTA file: {hint}; a FASTA starts with '>'")
        return b"\n" + text

    def _open_contig(self, line: bytes) -> SequenceBlock:
        self._line += 1
        place = f"{self._path}, line {self._line}"
        if len(line) > MAX_HEADER:
            raise GenomeError(f"{place}: a header longer than {MAX_HEADER:,} bytes; is this a FASTA?")
        header = line.decode("utf-8", errors="replace").strip()
        if not header:
            raise GenomeError(f"{place}: a header without a contig name")
        self._contig = header if self._whole_headers else header.split()[0]
        return SequenceBlock(self._contig, np.empty(0, dtype=np.uint8))

    def _refuse_letter(self, body: bytes) -> None:
        letters = np.frombuffer(body, dtype=np.uint8)
        is_bad = (ENCODE[letters] == 0) & ~np.isin(letters, list(_BLANKS))
        position = int(np.argmax(is_bad))
        line = self._line + body.count(b"\n", 0, position)
        place = f"{self._path}, contig {shown(self._contig)}, line {line}"
        raise GenomeError(f"{place}: letter {chr(letters[position])!r} is neither A, C, G, T, U nor an IUPAC code")
