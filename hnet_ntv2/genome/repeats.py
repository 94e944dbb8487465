"""Repeat annotation: RepeatMasker's ``.out`` to BED, and BED to a lookup by position in the genome."""

import logging
import os

from ..errors import ContigNotFound, GenomeError
from ..storage import open_text
from .bed import RowChecker, bed_rows
from .files import text_rows
from .genome import Genome
from .interval import SpanIndex

logger = logging.getLogger(__name__)

_STRANDS = {"+": "+", "C": "-", "-": "-"}


def convert_repeatmasker(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> int:
    """Convert RepeatMasker's ``.out`` table (plain or gzip) to BED6, repeats of both strands included.

    The table is 1-based and inclusive and marks the complementary strand with ``C``; the BED is 0-based, half-open,
    with ``-``. The name column holds ``repeat|class/family``.

    Args:
        source: RepeatMasker ``.out`` file.
        target: BED file to write; a name that ends in ``.gz`` is compressed by bgzip, ``-`` is standard output.

    Returns:
        The number of repeats written.

    Raises:
        GenomeError: if the source cannot be read or a line is malformed; ``target`` is then not written.
        ConfigError: if ``target`` cannot be written.
    """
    lines = [line for number, text in text_rows(source) if (line := _bed_line(f"{source}, line {number}", text))]
    if not lines:
        raise GenomeError(f"{source} holds no repeats; is it RepeatMasker's .out table?")
    with open_text(target) as file:
        file.writelines(f"{line}\n" for line in lines)
    return len(lines)


def _bed_line(place: str, text: str) -> str | None:
    """The BED6 line of a data line; None for a header line, a blank one, or the 'no repeats' notice."""
    fields = text.split()
    if not fields or not fields[0].lstrip("-").isdigit():
        if len(fields) > 10 and fields[0] not in ("SW", "score"):
            raise GenomeError(f"{place}: the score {fields[0]!r} is no number; is this RepeatMasker's .out table?")
        return None
    if len(fields) < 14 or fields[8] not in _STRANDS:
        raise GenomeError(f"{place}: not a line of RepeatMasker's .out table (strand + or C in the ninth column)")
    try:
        begin, end = int(fields[5]), int(fields[6])
    except ValueError:
        raise GenomeError(f"{place}: begin {fields[5]!r} and end {fields[6]!r} must be whole numbers") from None
    if begin < 1 or end < begin:
        raise GenomeError(f"{place}: begin {begin} and end {end} are no interval (1-based, inclusive)")
    return f"{fields[4]}\t{begin - 1}\t{end}\t{fields[9]}|{fields[10]}\t{fields[0]}\t{_STRANDS[fields[8]]}"


def read_repeats(path: str | os.PathLike[str], genome: Genome) -> SpanIndex:
    """Read a BED file of repeats as a lookup in positions in the genome.

    Contigs that the genome does not have are skipped and counted in the log (annotation covers alternate contigs that
    many FASTA files leave out), but at least one must be known.

    Raises:
        GenomeError, IntervalError: as ``read_bed``.
        ContigNotFound: if the genome has none of the file's contigs.
    """
    check = RowChecker(genome.contigs)
    starts, ends = [], []
    unknown: dict[str, int] = {}
    for row in bed_rows(path, 3):
        if row.fields[0] in unknown:
            unknown[row.fields[0]] += 1
            continue
        try:
            contig, start, end = check(row)
        except ContigNotFound:
            unknown[row.fields[0]] = 1
            continue
        starts.append(genome.offsets[contig] + start)
        ends.append(genome.offsets[contig] + end)
    if not starts:
        raise ContigNotFound(
            f"{path}: none of its contigs ({', '.join(list(unknown)[:3])}) is in {genome.source}, whose names look "
            f"like {', '.join(list(genome.contigs)[:3])}"
        )
    if unknown:
        logger.info("%s: skipped %d repeats on %d unknown contigs", path, sum(unknown.values()), len(unknown))
    return SpanIndex(starts, ends)
