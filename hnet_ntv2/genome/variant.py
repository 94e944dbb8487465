"""One alternative allele: what can be scored, whether it fits a genome, and its normalised spelling."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ContigNotFound
from ..vocabulary import AMBIGUITY_CODES, BASE_BITS, decode, encode, is_n
from .contigs import ContigResolver
from .genome import Genome
from .interval import Interval

LETTERS = re.compile(f"[ACGTU{AMBIGUITY_CODES}]+", re.IGNORECASE)
_MOST_LETTERS_SHOWN = 20
# Bases compared at once while an indel is moved: one block decides most indels, long repeats take several.
_STEP = 4096


@dataclass(frozen=True, slots=True)
class Variant:
    """One alternative allele of one line.

    Attributes:
        line: Its line in the file, from 1; of a BCF, its record.
        contig: As the file names it.
        position: First base of ``ref``, 0-based; -1 before the contig (VCF's POS 0, a telomere).
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
        if not LETTERS.fullmatch(self.alt):
            return "breakend"
        if self.alt.upper() == self.ref.upper():
            return "alternative equals reference"
        if is_n(np.concatenate([self.ref_bases, self.alt_bases])).any():
            return "allele with N"
        return None

    @property
    def ref_bases(self) -> NDArray[np.uint8]:
        """The reference allele as character ids; only where it is plain sequence."""
        return encode(self.ref.upper().encode())

    @property
    def alt_bases(self) -> NDArray[np.uint8]:
        """The alternative allele as character ids; only where it is plain sequence."""
        return encode(self.alt.upper().encode())


@dataclass(frozen=True)
class Change:
    """What a variant does to a genome, without the bases that both alleles share.

    Attributes:
        contig: As the genome names it.
        start: Where it happens, 0-based.
        deleted: The bases that go, character ids; empty for an insertion in front of ``start``.
        inserted: The bases that come; empty for a deletion.
        slack: By how many bases it could be moved to the right without another result: an indel in a repeat.
    """

    contig: str
    start: int
    deleted: NDArray[np.uint8]
    inserted: NDArray[np.uint8]
    slack: int = 0

    @property
    def end(self) -> int:
        """The base after the last that goes."""
        return self.start + len(self.deleted)


class VariantChecker:
    """Locate variants on a genome, in any style of contig names, and compare their reference alleles."""

    def __init__(self, genome: Genome) -> None:
        self._genome = genome
        self._resolve = ContigResolver(genome.contigs, source=str(genome.source))

    def problem(self, variant: Variant) -> str | None:
        """Why the variant does not belong to this genome; None if it fits, or if ``skip_reason`` has the answer.

        Case does not matter. Only A, C, G and T are compared: N and ambiguity codes, in the allele or in the genome,
        say nothing about the assembly.
        """
        if variant.unscorable is not None:
            return None  # whoever writes a symbolic allele or breakend often writes N for its reference
        try:
            length = self._genome.contigs[self._resolve(variant.contig)]
        except ContigNotFound as error:
            return str(error)
        if _telomere(variant, length) is not None:
            return None
        where = f"{variant.contig}:{variant.position + 1}"
        if variant.position + len(variant.ref) > length:
            return f"reference allele {_short(variant.ref)} at {where} goes past the contig's end at {length}"
        found, written = self._reference(variant), variant.ref_bases
        if ((found == written) | is_n(found) | is_n(written)).all():
            return None
        letters = _short(decode(found).decode())
        return f"reference allele {_short(variant.ref)} at {where}, but the genome has {letters}"

    def skip_reason(self, variant: Variant) -> str | None:
        """Why a variant that fits the genome (``problem``) cannot be scored; None if it can."""
        if variant.unscorable is not None:
            return variant.unscorable
        length = self._genome.contigs[self._resolve(variant.contig)]
        if (reason := _telomere(variant, length)) is not None:
            return reason
        return "reference allele where the genome has N" if is_n(self._reference(variant)).any() else None

    def change(self, variant: Variant) -> Change:
        """The variant without what both alleles share, moved as far left as it goes, so that a change has one form.

        This is what ``bcftools norm`` does, but for the base in front of an indel, which VCF adds since it has no
        empty alleles.

        Args:
            variant: One that fits the genome and can be scored.
        """
        contig = self._resolve(variant.contig)
        return _left_aligned(
            self._genome, _trimmed(Change(contig, variant.position, variant.ref_bases, variant.alt_bases))
        )

    def _reference(self, variant: Variant) -> NDArray[np.uint8]:
        """The genome's bases at the place of the reference allele, upper case."""
        contig = self._resolve(variant.contig)
        place = Interval(contig, variant.position, variant.position + len(variant.ref))
        return self._genome.read(place) & np.uint8(BASE_BITS)


def _telomere(variant: Variant, length: int) -> str | None:
    """VCF writes the ends of a contig of N bases as the positions 0 and N + 1."""
    if variant.position == -1:
        return "position 0 (telomere), before the first base of the contig"
    if variant.position == length:
        return f"position {length + 1} (telomere), after the last base of the contig"
    return None


def _trimmed(change: Change) -> Change:
    """Without the suffix that both alleles share, and then without the prefix."""
    deleted, inserted = change.deleted, change.inserted
    suffix = _num_shared(deleted[::-1], inserted[::-1])
    deleted, inserted = deleted[: len(deleted) - suffix], inserted[: len(inserted) - suffix]
    prefix = _num_shared(deleted, inserted)
    return Change(change.contig, change.start + prefix, deleted[prefix:], inserted[prefix:])


def _num_shared(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """How many bases two sequences share from their start on."""
    length = min(len(one), len(other))
    differing = np.flatnonzero(one[:length] != other[:length])
    return int(differing[0]) if len(differing) else length


def _left_aligned(genome: Genome, change: Change) -> Change:
    """A pure insertion or deletion moved left while the base in front of it equals its last one."""
    if len(change.deleted) and len(change.inserted):
        return change  # trimmed: the last bases differ
    bases = np.concatenate([change.deleted, change.inserted])
    moved = _num_repeated(genome, change.contig, change.start, bases, to_left=True)
    slack = moved + _num_repeated(genome, change.contig, change.end, bases, to_left=False)
    bases = np.roll(bases, moved)  # moved by one, the last base goes to the front
    deleted, inserted = (bases, bases[:0]) if len(change.deleted) else (bases[:0], bases)
    return Change(change.contig, change.start - moved, deleted, inserted, slack)


def _num_repeated(genome: Genome, contig: str, place: int, bases: NDArray[np.uint8], to_left: bool) -> int:
    """Number of bases beside ``place``, to its left or right, that continue ``bases`` repeated in a cycle."""
    cycle = bases[::-1] if to_left else bases
    count = 0
    while True:
        if to_left:
            start, end = max(place - count - _STEP, 0), place - count
        else:
            start, end = place + count, min(place + count + _STEP, genome.contigs[contig])
        if start == end:
            return count
        beside = genome.read(Interval(contig, start, end)) & np.uint8(BASE_BITS)
        expected = np.resize(np.roll(cycle, -count), len(beside))
        shared = _num_shared(beside[::-1] if to_left else beside, expected)
        count += shared
        if shared < len(beside):
            return count


def _short(allele: str) -> str:
    if len(allele) <= _MOST_LETTERS_SHOWN:
        return allele
    return f"{allele[:_MOST_LETTERS_SHOWN]}... ({len(allele)} bases)"
