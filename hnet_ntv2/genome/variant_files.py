"""Read variants from VCF, from BCF (by htslib), and from tables with the columns chrom, pos, ref and alt."""

import csv
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import GenomeError, shown
from .files import GZIP_MAGIC, check_rereadable, is_bgzip, open_sequence_file, text_rows, whole_number
from .variant import LETTERS, Variant

if TYPE_CHECKING:
    import pysam

_COLUMNS = ("chrom", "pos", "ref", "alt")
_VCF_COLUMNS = 8
_SYMBOLIC = re.compile(r"<[^<>\s]+>")
# The parts between the brackets exclude brackets, so that matching takes linear time.
_BREAKEND = re.compile(r"[^\[\]\s]*[\[\]][^\[\]\s]+[\[\]][^\[\]\s]*|\.[A-Za-z]+|[A-Za-z]+\.")
_MOST_OF_A_BLOCK = 1 << 16  # decompressed bytes, by bgzip's format
_LONGEST_LINE = 1 << 27  # characters; a line of 500,000 samples has a tenth of it


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
    with open_sequence_file(path) as (stream, _):
        is_bcf = stream.read(3) == b"BCF"
    return _read_bcf(path) if is_bcf else _read_text(path)


def _read_bcf(path: Path) -> Iterator[Variant]:
    with _open_bcf(path) as file:
        for number in count(1):
            try:
                with _quiet_htslib():
                    if (record := next(file, None)) is None:
                        return
                    fields = (record.chrom, record.pos, record.id or ".", str(record.ref), record.alts or (".",))
            except (OSError, ValueError) as error:
                raise GenomeError(f"{path}, record {number} cannot be read ({error}); is the file complete?") from error
            yield from _variants(f"{path}, record {number}", number, *fields)


@contextmanager
def _open_bcf(path: Path) -> Iterator["pysam.VariantFile"]:
    import pysam

    with ExitStack() as stack:
        source = path
        with path.open("rb") as raw:
            magic = raw.read(18)
        if magic.startswith(GZIP_MAGIC) and not is_bgzip(magic):  # pysam seeks, which gzip does not allow
            copy = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".bcf"))
            with open_sequence_file(path) as (stream, _):
                shutil.copyfileobj(stream, copy)
            copy.flush()
            source = copy.name
        try:
            with _quiet_htslib():
                file = pysam.VariantFile(str(source), drop_samples=True)
        except (OSError, ValueError) as error:
            raise GenomeError(f"{path}: htslib cannot read its header ({error}); is the file complete?") from error
        try:
            yield file
        finally:
            # A damaged file fails again when it is closed; its first failure has been raised.
            with _quiet_htslib(), suppress(OSError):
                file.close()


@contextmanager
def _quiet_htslib() -> Iterator[None]:
    """Suppress htslib's messages on standard error; failures become errors of ours."""
    import pysam

    before = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(before)


def _read_text(path: Path) -> Iterator[Variant]:
    """The alleles of a VCF or a table; a VCF is a table by tabs that is checked more strictly."""
    columns: dict[str, int] = {}
    separator, needed, is_vcf = "\t", 0, False
    for number, text in text_rows(path, _LONGEST_LINE):
        is_vcf = is_vcf or (number == 1 and text.startswith("##fileformat=VCF"))
        if text.startswith("##") or not (text.strip() or is_vcf):
            continue
        place = f"{path}, line {number}"
        if not columns:
            separator = "\t" if "\t" in text else ","
            columns = _header(place, _fields(text.removeprefix("#"), separator))
            needed = max(columns.values()) + 1
            continue
        fields = [field.strip() for field in _fields(text, separator, max(needed, _VCF_COLUMNS))]
        if is_vcf:
            _check_vcf_line(path, number, text, fields)
        if len(fields) < needed:
            by = "tabs" if separator == "\t" else "commas"
            raise GenomeError(f"{place}: {len(fields)} columns, at least {needed} are needed, by {by}")
        contig, position, ref, alts = (fields[columns[name]] for name in _COLUMNS)
        name = fields[columns["id"]] or "." if "id" in columns else "."
        yield from _variants(place, number, contig, _position(place, position), name, ref, alts.split(","))
    if not columns:
        raise GenomeError(f"{path} has no header line, which names the columns chrom, pos, ref and alt")


def _fields(text: str, separator: str, most: int = -1) -> list[str]:
    # At most so many: a VCF can have 500,000 columns of samples, which are not read.
    return text.split("\t", most) if separator == "\t" else next(csv.reader([text]))


def _check_vcf_line(path: Path, number: int, text: str, fields: list[str]) -> None:
    if len(fields) < _VCF_COLUMNS or whole_number(fields[1]) is None:
        why = "not a line of a VCF"
    elif "\ufffd" in fields[0] + fields[2]:  # what ``text_rows`` puts for other encodings
        why = "CHROM or ID is not UTF-8"
    else:
        return
    with open_sequence_file(path) as (stream, _):  # raises where the compression is damaged
        deque(islice(stream, number), maxlen=0)
        stream.read(_MOST_OF_A_BLOCK)  # damage shows at the end of a block
    raise GenomeError(f"{path}, line {number}: {why}, of 8 columns by tabs with a number as POS; found {shown(text)}")


def _header(place: str, names: list[str]) -> dict[str, int]:
    names = [name.strip().lower() for name in names]
    if missing := [name for name in _COLUMNS if name not in names]:
        found = ", ".join(name[:20] for name in names[:8])
        raise GenomeError(f"{place}: no column {', '.join(missing)}; name the columns in the first line; found {found}")
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
            raise GenomeError(f"{place}: alternative allele {shown(alt)}; VCF writes an indel with the base before it")
        yield Variant(number, contig, position - 1, name, ref, alt)


def _is_other_allele(alt: str) -> bool:
    """Whether it is one of the alleles of VCF that are no sequence."""
    is_known = alt in ("*", ".") or _SYMBOLIC.fullmatch(alt) or _BREAKEND.fullmatch(alt)
    return bool(is_known) and alt.isprintable()
