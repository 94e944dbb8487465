"""Read variants from VCF and BCF, by htslib, and from tables with the columns chrom, pos, ref and alt."""

import csv
import gzip
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import GenomeError, shown
from .files import BYTE_ORDER_MARK, GZIP_MAGIC, check_rereadable, is_bgzip, open_sequence_file, text_rows, whole_number
from .variant import LETTERS, Variant

if TYPE_CHECKING:
    import pysam

_COLUMNS = ("chrom", "pos", "ref", "alt")
_SYMBOLIC = re.compile(r"<[^<>\s]+>")
# The parts between the brackets exclude brackets, so that matching takes linear time.
_BREAKEND = re.compile(r"[^\[\]\s]*[\[\]][^\[\]\s]+[\[\]][^\[\]\s]*|\.[A-Za-z]+|[A-Za-z]+\.")
_MOST_HEADER_LINE = 1 << 26  # bytes; one of 500,000 samples has a tenth of it
_RECORDS_AT_ONCE = 1000
_MOST_OF_A_BLOCK = 1 << 16  # decompressed bytes, by bgzip's format


def read_variants(path: str | os.PathLike[str]) -> Iterator[Variant]:
    """Read the alleles of a VCF, a BCF or a table, plain, gzip or bgzip, in the order of the file.

    A table has a header line that names its columns, separated by tabs or commas, with or without ``#`` in front;
    ``chrom``, ``pos`` (1-based), ``ref`` and ``alt`` in any case are read, and ``id`` if there is one. Several
    alternatives are split at commas. Other columns may hold anything. A pipe is refused, since the file is opened
    twice: once to recognise its kind.

    Raises:
        GenomeError: The file cannot be read or has no header, or a line is malformed (the error names it).
    """
    path = check_rereadable(path, "a file of variants")
    header_lines = _num_header_lines(path)
    return _read_table(path) if header_lines is None else _read_vcf(path, header_lines)


def _num_header_lines(path: Path) -> int | None:
    """Lines in front of a VCF's first record, none for a BCF; None if it is neither."""
    with open_sequence_file(path) as (stream, _):
        line = stream.readline(_MOST_HEADER_LINE)
        if line.startswith(b"BCF"):
            return 0
        if not line.startswith(b"##fileformat=VCF"):
            return None
        count = 1
        while line := stream.readline(_MOST_HEADER_LINE):
            count += 1
            if line.startswith(b"#") and not line.startswith(b"##"):  # #CHROM: htslib's header ends here
                break
        return count


def _read_vcf(path: Path, header_lines: int) -> Iterator[Variant]:
    with _open_vcf(path) as file:
        number = header_lines
        while records := _next_records(path, file, number, is_text=header_lines > 0):
            for contig, position, name, ref, alts in records:
                number += 1
                yield from _variants(f"{path}, line {number}", number, contig, position, name or ".", ref, alts)


_Record = tuple[str, int, str | None, str, tuple[str, ...]]


def _next_records(path: Path, file: "pysam.VariantFile", number: int, is_text: bool) -> list[_Record]:
    """The next records of a VCF whose first ``number`` lines are read; none at its end."""
    records: list[_Record] = []
    with _quiet_htslib():
        while len(records) < _RECORDS_AT_ONCE:
            try:
                record = next(file)
                # Nothing else is touched: the other columns may be in any encoding.
                fields = (record.chrom, record.pos, record.id, str(record.ref), record.alts or (".",))
            except StopIteration:
                break
            except (OSError, ValueError) as error:
                raise _damage(path, number + len(records) + 1, error, is_text) from error
            records.append(fields)
    return records


def _damage(path: Path, number: int, error: Exception, is_text: bool) -> GenomeError:
    """The error for a record that htslib could not read."""
    if not is_text:
        return GenomeError(f"{path}, record {number} cannot be read ({error}); is the file complete?")
    with open_sequence_file(path) as (stream, _):  # raises where the compression is damaged
        line = next(islice(stream, number - 1, None), b"").decode("utf-8", "backslashreplace").rstrip("\r\n")
        stream.read(_MOST_OF_A_BLOCK)  # damage shows at the end of a block
    why = "CHROM or ID is not UTF-8" if isinstance(error, UnicodeDecodeError) else "not a line of a VCF"
    return GenomeError(
        f"{path}, line {number}: {why}; it has at least 8 columns, by tabs, and a whole number as POS; "
        f"found {shown(line)}"
    )


@contextmanager
def _open_vcf(path: Path) -> Iterator["pysam.VariantFile"]:
    import pysam

    with ExitStack() as stack:
        source = stack.enter_context(_unpacked(path)) if _needs_unpacking(path) else path
        try:
            with _quiet_htslib():
                file = pysam.VariantFile(str(source), drop_samples=True)
        except (OSError, ValueError) as error:
            raise GenomeError(
                f"{path}: htslib cannot read its header; has it one line #CHROM, by tabs, without a sample twice?"
            ) from error
        # A damaged file fails again when it is closed; its first failure has been raised.
        stack.callback(_close_quietly, file)
        yield file


def _close_quietly(file: "pysam.VariantFile") -> None:
    with _quiet_htslib(), suppress(OSError):
        file.close()


def _needs_unpacking(path: Path) -> bool:
    """Whether it is gzip but not bgzip, or begins with a byte order mark: htslib reads neither."""
    with path.open("rb") as file:
        magic = file.read(18)
    return magic.startswith(BYTE_ORDER_MARK) or (magic.startswith(GZIP_MAGIC) and not is_bgzip(magic))


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """A temporary copy as plain text."""
    with tempfile.NamedTemporaryFile(suffix=".vcf") as copy:
        with open_sequence_file(path) as (stream, _):
            try:
                shutil.copyfileobj(stream, copy)
                copy.flush()
            except gzip.BadGzipFile:
                raise  # an OSError too, but the file's fault
            except OSError as error:
                raise GenomeError(f"{path} cannot be unpacked: {error}; bgzip is read without unpacking") from error
        yield Path(copy.name)


@contextmanager
def _quiet_htslib() -> Iterator[None]:
    """Suppress htslib's messages on standard error; failures become errors of ours."""
    import pysam

    before = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(before)


def _read_table(path: Path) -> Iterator[Variant]:
    columns: dict[str, int] | None = None
    separator = "\t"
    for number, text in text_rows(path):
        if not text.strip() or text.startswith("##"):
            continue
        place = f"{path}, line {number}"
        if columns is None:
            separator = "\t" if "\t" in text else ","
            columns = _header(place, _fields(text.removeprefix("#"), separator))
            continue
        fields = [field.strip() for field in _fields(text, separator)]
        needed = max(columns.values()) + 1
        if len(fields) < needed:
            by = "tabs" if separator == "\t" else "commas"
            raise GenomeError(f"{place}: {len(fields)} columns, at least {needed} are needed, by {by}")
        contig, position, ref, alts = (fields[columns[name]] for name in _COLUMNS)
        name = fields[columns["id"]] or "." if "id" in columns else "."
        yield from _variants(place, number, contig, _position(place, position), name, ref, alts.split(","))
    if columns is None:
        raise GenomeError(f"{path} has no header line, which names the columns chrom, pos, ref and alt")


def _fields(text: str, separator: str) -> list[str]:
    return text.split("\t") if separator == "\t" else next(csv.reader([text]))


def _header(place: str, names: list[str]) -> dict[str, int]:
    names = [name.strip().lower() for name in names]
    if missing := [name for name in _COLUMNS if name not in names]:
        raise GenomeError(
            f"{place}: no column {', '.join(missing)}; a VCF, or columns named chrom, pos, ref, alt in the first line, "
            f"by tabs or commas, is needed; found {', '.join(name[:20] for name in names[:8])}"
        )
    return {name: names.index(name) for name in (*_COLUMNS, "id") if name in names}


def _position(place: str, text: str) -> int:
    number = whole_number(text)
    if number is None or number < 0:
        raise GenomeError(f"{place}: position {shown(text)} must be a whole number (1 is the first base)")
    return number


def _variants(
    place: str, number: int, contig: str, position: int, name: str, ref: str, alts: list[str] | tuple[str, ...]
) -> Iterator[Variant]:
    """The alleles of one line."""
    # Tabs and line ends would break the table of scores, escape sequences reach a terminal.
    if not (contig and contig.isprintable() and name.isprintable()):
        raise GenomeError(f"{place}: chrom {shown(contig)} and id {shown(name)} must be printable, chrom not empty")
    for alt in alts:
        is_sequence = LETTERS.fullmatch(alt) is not None
        # Callers write "." or N as the reference of a symbolic allele, which is not looked at.
        if not LETTERS.fullmatch(ref) and (is_sequence or not ref.isprintable()):
            raise GenomeError(f"{place}: ref {shown(ref)} must be bases (A, C, G, T, N)")
        if not (is_sequence or _is_other_allele(alt)):
            raise GenomeError(
                f"{place}: alternative allele {shown(alt)} is neither bases, nor symbolic (<DEL>), *, . or a "
                "breakend; an indel is written with the base before it, as in VCF"
            )
        yield Variant(number, contig, position - 1, name, ref, alt)


def _is_other_allele(alt: str) -> bool:
    """Whether it is one of the alleles of VCF that are no sequence."""
    is_known = alt in ("*", ".") or _SYMBOLIC.fullmatch(alt) or _BREAKEND.fullmatch(alt)
    return bool(is_known) and alt.isprintable()
