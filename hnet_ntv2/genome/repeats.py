"""Convert RepeatMasker's and Dfam's tables to BED, and BED to a lookup by position in the genome."""

import logging
import os
import re
from collections.abc import Iterator

from ..errors import ContigNotFound, GenomeError, shown
from ..storage import open_text
from .bed import RowChecker, bed_rows
from .files import text_rows, whole_number
from .genome import Genome
from .interval import SpanIndex

logger = logging.getLogger(__name__)

_STRANDS = {"+": "+", "C": "-", "-": "-"}
_SCORE = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")  # of nhmmer in bits, such as 24.5


def convert_repeatmasker(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> int:
    """Convert a table of repeats (plain or gzip) to BED6, repeats of both strands included.

    Two kinds are read. RepeatMasker's ``.out``, whose first column is a Smith-Waterman score or, from nhmmer, a bit
    score with decimals; it marks the complementary strand with ``C``, and the name becomes ``repeat|class/family``.
    And Dfam's tables of nhmmer hits (``hg38_dfam.nrph.hits``), where a hit on the other strand ends before it starts,
    and the name becomes ``family|accession``. Both are 1-based and inclusive; the BED is 0-based, half-open.

    Args:
        source: The table, a file or pipe.
        target: BED file to write; a name that ends in ``.gz`` is compressed by bgzip, ``-`` is standard output. Scores
            are rounded to whole numbers, as BED wants them.

    Returns:
        The number of repeats written.

    Raises:
        GenomeError: if the source cannot be read or a line is malformed; ``target`` is then not written.
        ConfigError: if ``target`` cannot be written.
    """
    lines = list(repeat_lines(source))
    if not lines:
        raise GenomeError(f"{source} holds no repeats; is it RepeatMasker's .out table?")
    with open_text(target) as file:
        for line in lines:  # not writelines, which joins them all: hg38 has 5.5 million
            file.write(f"{line}\n")
    return len(lines)


def repeat_lines(source: str | os.PathLike[str]) -> Iterator[str]:
    """The BED6 lines, without line ends, that ``convert_repeatmasker`` writes; raises as it does."""
    to_bed = _out_line
    for number, text in text_rows(source):
        place = f"{source}, line {number}"
        if text.startswith("#seq_name"):
            to_bed = _hit_line
        elif text.startswith("# target name"):
            # nhmmer and nhmmscan write the sequence and the family in opposite columns under the same header.
            raise GenomeError(f"{place}: this is HMMER's own table; give RepeatMasker's .out table, or Dfam's hits")
        elif not text.startswith("#") and (line := to_bed(place, text.split())):
            yield line


def _out_line(place: str, fields: list[str]) -> str | None:
    """The BED6 line of a line of ``.out``; None for a header line, a blank one, or the 'no repeats' notice."""
    if not fields or not _SCORE.fullmatch(fields[0]):
        if len(fields) > 10 and fields[0] not in ("SW", "bit", "score"):
            raise GenomeError(f"{place}: the score {shown(fields[0])} is no number; is this RepeatMasker's .out table?")
        return None
    if len(fields) < 14 or fields[8] not in _STRANDS:
        raise GenomeError(f"{place}: not a line of RepeatMasker's .out table (strand + or C in the ninth column)")
    name = f"{fields[9]}|{fields[10]}"
    return _bed_line(place, fields[4], fields[5], fields[6], name, fields[0], _STRANDS[fields[8]])


def _hit_line(place: str, fields: list[str]) -> str | None:
    """The BED6 line of a hit of Dfam; None for a blank line."""
    if not fields:
        return None
    if len(fields) < 11 or fields[8] not in ("+", "-") or not _SCORE.fullmatch(fields[3]):
        raise GenomeError(f"{place}: not a line of Dfam's hits (bits in the fourth column, strand in the ninth)")
    begin, end = (fields[9], fields[10]) if fields[8] == "+" else (fields[10], fields[9])
    return _bed_line(place, fields[0], begin, end, f"{fields[2]}|{fields[1]}", fields[3], fields[8])


def _bed_line(place: str, contig: str, begin: str, end: str, name: str, score: str, strand: str) -> str:
    first, last = whole_number(begin), whole_number(end)
    if first is None or last is None:
        raise GenomeError(f"{place}: begin {shown(begin)} and end {shown(end)} must be whole numbers")
    if first < 1 or last < first:
        raise GenomeError(f"{place}: begin {first} and end {last} are no interval (1-based, inclusive)")
    return f"{contig}\t{first - 1}\t{last}\t{name}\t{round(float(score))}\t{strand}"


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
        names, known = (", ".join(list(contigs)[:3]) for contigs in (unknown, genome.contigs))
        raise ContigNotFound(f"{path}: none of its contigs ({names}) is in {genome.source}, which has {known}")
    if unknown:
        logger.info("%s: skipped %d repeats on %d unknown contigs", path, sum(unknown.values()), len(unknown))
    return SpanIndex(starts, ends)
