"""Read variants (VCF, or a table with chrom, pos, ref, alt), one per alternative allele, and check them on a genome."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ContigNotFound, GenomeError
from .alphabet import BASE_BITS, decode, encode, is_n
from .contigs import ContigResolver
from .files import text_rows
from .genome import Genome
from .interval import Interval

_COLUMNS = ("chrom", "pos", "ref", "alt")
_LETTERS = re.compile(r"[ACGTURYSWKMBDHVN]+", re.IGNORECASE)
_MOST_LETTERS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Variant:
    """One alternative allele of one line.

    Attributes:
        line: Its line in the file, from 1.
        contig: As the file names it.
        position: First base of ``ref``, 0-based.
        name: The ID column, "." without one.
        ref: Reference allele as written.
        alt: Alternative allele as written; may be symbolic.
    """

    line: int
    contig: str
    position: int
    name: str
    ref: str
    alt: str

    @property
    def unscorable(self) -> str | None:
        """Why no model can score it, whatever the genome says; None where it is plain sequence."""
        if self.alt == "*":
            return "allele * (spanned by another deletion)"
        if self.alt == ".":
            return "no alternative allele"
        if self.alt.startswith("<"):
            return f"symbolic allele {self.alt}"
        if not _LETTERS.fullmatch(self.alt):
            return "breakend"
        if self.alt.upper() == self.ref.upper():
            return "alternative equals reference"
        if is_n(np.concatenate([self.ref_bases, self.alt_bases])).any():
            return "allele with N"
        return None

    @property
    def ref_bases(self) -> NDArray[np.uint8]:
        """The reference allele as character ids."""
        return encode(self.ref.upper().encode())

    @property
    def alt_bases(self) -> NDArray[np.uint8]:
        """The alternative allele as character ids; only where it is plain sequence."""
        return encode(self.alt.upper().encode())


def read_variants(path: str | os.PathLike[str]) -> Iterator[Variant]:
    """Read the alleles of a VCF or of a table, plain or gzip, in the order of the file.

    Both need a header line that names tab-separated columns, with or without ``#`` in front; ``chrom``, ``pos``
    (1-based), ``ref`` and ``alt`` in any case are read, and ``id`` if there is one. Several alternatives are split at
    commas.

    Raises:
        GenomeError: The file cannot be read, has no header or no variant, or a line is malformed (told with its number
            and the value).
    """
    columns: dict[str, int] | None = None
    found = False
    for number, text in text_rows(path):
        if not text.strip() or text.startswith("##"):
            continue
        place = f"{path}, line {number}"
        if columns is None:
            columns = _header(place, text)
            continue
        found = True
        yield from _variants(place, number, text, columns)
    if not found:
        raise GenomeError(f"{path} holds no variants")


def _header(place: str, text: str) -> dict[str, int]:
    names = [name.strip().lower() for name in text.removeprefix("#").split("\t")]
    if missing := [name for name in _COLUMNS if name not in names]:
        raise GenomeError(
            f"{place}: no column {', '.join(missing)}; a VCF, or tab-separated columns named chrom, pos, ref, alt in "
            f"the first line, is needed; found {', '.join(names[:8])}"
        )
    return {name: names.index(name) for name in (*_COLUMNS, "id") if name in names}


def _variants(place: str, number: int, text: str, columns: dict[str, int]) -> Iterator[Variant]:
    fields = text.split("\t")
    if len(fields) <= max(columns.values()):
        raise GenomeError(f"{place}: {len(fields)} columns, at least {max(columns.values()) + 1} are needed, by tabs")
    contig, position, ref, alts = (fields[columns[name]].strip() for name in _COLUMNS)
    if not (position.isascii() and position.isdigit() and int(position) > 0):
        raise GenomeError(f"{place}: position {position!r} must be a whole number from 1 on")
    if not contig or not _LETTERS.fullmatch(ref):
        raise GenomeError(f"{place}: chrom {contig!r} and ref {ref!r} must be a name and bases (A, C, G, T, N)")
    name = fields[columns["id"]].strip() or "." if "id" in columns else "."
    for alt in alts.split(","):
        if not _is_allele(alt):
            raise GenomeError(
                f"{place}: alternative allele {alt!r} is neither bases, nor symbolic (<DEL>), *, . or a breakend; "
                "an indel is written with the base before it, as in VCF"
            )
        yield Variant(number, contig, int(position) - 1, name, ref, alt)


def _is_allele(alt: str) -> bool:
    is_symbolic = re.fullmatch(r"<[^<>\s]+>", alt) is not None
    is_breakend = re.fullmatch(r"\S*[\[\]]\S+[\[\]]\S*|\.[A-Za-z]+|[A-Za-z]+\.", alt) is not None
    return alt in ("*", ".") or is_symbolic or is_breakend or _LETTERS.fullmatch(alt) is not None


class VariantChecker:
    """Finds variants on a genome, whatever the style of its contig names, and compares their reference alleles."""

    def __init__(self, genome: Genome) -> None:
        self._genome = genome
        self._resolve = ContigResolver(genome.contigs, source=str(genome.source))

    def interval(self, variant: Variant) -> Interval:
        """Where the reference allele lies; raises ContigNotFound."""
        contig = self._resolve(variant.contig)
        return Interval(contig, variant.position, variant.position + len(variant.ref))

    def problem(self, variant: Variant) -> str | None:
        """Why the variant does not belong to this genome; None if its reference allele is there.

        Case does not matter; ambiguity codes are compared as N.
        """
        try:
            interval = self.interval(variant)
        except ContigNotFound as error:
            return str(error)
        length = self._genome.contigs[interval.contig]
        where = f"{variant.contig}:{variant.position + 1}"
        if interval.end > length:
            return f"reference allele {_short(variant.ref)} at {where} goes past the contig's end at {length}"
        found = self._genome.read(interval) & np.uint8(BASE_BITS)
        if np.array_equal(found, variant.ref_bases):
            return None
        letters = _short(decode(found).decode())
        return f"reference allele {_short(variant.ref)} at {where}, but the genome has {letters}"


def _short(allele: str) -> str:
    if len(allele) <= _MOST_LETTERS_SHOWN:
        return allele
    return f"{allele[:_MOST_LETTERS_SHOWN]}... ({len(allele)} bases)"
