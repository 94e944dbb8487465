"""What the verbs that use a trained model share: their options, the genome, and progress on standard error."""

import re
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ContigNotFound, IntervalError, escaped, shown

if TYPE_CHECKING:
    from ..genome import Genome, Interval


class StrandChoice(StrEnum):
    """Values of ``--strands``."""

    both = "both"
    forward = "forward"


ModelOption = Annotated[
    Path | None, typer.Option("--model", metavar="DIR", help="Model folder [default: the bundled model].")
]
GenomeOption = Annotated[
    Path | None,
    typer.Option(
        "--genome", metavar="FASTA", help="FASTA or .2bit [default: the bundled piece of human chromosome 20]."
    ),
]
DeviceOption = Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda, cuda:1 ...")]
FlankOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Least context discarded at inner window edges [default: window / 8, at most 512]."),
]
WindowOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Longer sequences are cut into overlapping windows of N bases [default: as long as the windows that the "
        "model was trained on; 6144 where its config does not say].",
    ),
]
StrandsOption = Annotated[StrandChoice, typer.Option(help="Average both strands, or run one.")]
SkipOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad-regions",
        help="Leave out regions of a BED file that are empty, reversed, past a contig's end or on an unknown contig, "
        "and count them [default: stop].",
    ),
]
BatchOption = Annotated[int, typer.Option(metavar="N", min=1, help="Most bases of one forward pass.")]


# 18 digits: no number is too long for Python to read.
_SPAN = re.compile(r"(?P<first>[0-9]{1,18})(-(?P<last>[0-9]{1,18})?)?")


class ProgressLines:
    """Progress as lines on standard error, at most one every few seconds.

    Lines and not a bar: they can be read in the log of a job.
    """

    def __init__(self, what: str, seconds: float = 5.0) -> None:
        self._what = what
        self._seconds = seconds
        self._begin = self._last = time.monotonic()

    def __call__(self, done: int, total: int | None = None) -> None:
        """Print a line, unless the last one is too recent."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return
        self._last = now
        of_all = "" if total is None else f" of {total:,}"
        typer.echo(f"{done:,}{of_all} {self._what}, {now - self._begin:,.0f} s", err=True)


def echo_result(message: str, *outputs: Path | None) -> None:
    """Print a verb's result; on standard error if one of the outputs is standard output."""
    from ..storage.places import descriptor_of

    typer.echo(message, err=any(path is not None and descriptor_of(path) == 1 for path in outputs))


def open_genome_file(path: Path | None) -> "Genome":
    """Open a genome, or the bundled piece for None, with lines of progress while its cache is built."""
    from ..genome import open_genome
    from ..resources import bundled_genome

    if path is None:
        path = bundled_genome()
        typer.echo("no --genome: the bundled piece of human chromosome 20 is taken", err=True)
    return open_genome(path, progress=ProgressLines("bytes read for the genome cache"))


def read_regions_file(path: Path, genome: "Genome", skip_bad: bool, stranded: bool = False) -> "list[Interval]":
    """The regions of a BED file, with their strands if wanted; with ``skip_bad``, those that do not fit the genome are
    left out and counted.

    Raises:
        GenomeError, ContigNotFound, IntervalError: as ``genome.read_bed``.
    """
    from ..genome import read_bed

    misfits: list[str] = []
    on_misfit = (lambda error: misfits.append(str(error))) if skip_bad else None
    intervals = read_bed(path, genome.contigs, on_misfit, stranded)
    if misfits:
        typer.echo(f"{len(misfits):,} regions skipped, the first because of {misfits[0]}", err=True)
    return intervals


def parse_region(text: str, genome: "Genome") -> "Interval":
    """Read a region in the form of samtools, UCSC and IGV: ``contig:first-last``, 1-based, both ends included.

    Commas may group digits. ``contig:first`` and ``contig:first-`` go to the contig's end, ``contig`` is all of it.

    Raises:
        IntervalError: The text is not of this form, or goes past the contig's end.
        ContigNotFound: The genome has no such contig.
    """
    from ..genome import Interval

    # The whole text first: names of contigs can hold colons, as HLA-A*01:01 does.
    name, separator, span = (text, "", "") if text in genome.contigs else text.rpartition(":")
    if not separator:
        contig = genome.resolve(text)
        return Interval(contig, 0, genome.contigs[contig])
    match = _SPAN.fullmatch(span.replace(",", "").replace(" ", ""))
    if match is None:
        raise IntervalError(
            f"--region {shown(text)}: {shown(span)} is no range; write chr20:1,000,001-1,010,000 (1-based, both ends "
            "included), chr20:1,000,001- or chr20"
        )
    try:
        contig = genome.resolve(name)
    except ContigNotFound as error:
        raise ContigNotFound(f"--region {shown(text)}: {error}") from None  # the message holds all that was known
    length = genome.contigs[contig]
    first, last = int(match["first"]), int(match["last"] or length)
    if first == 0:
        typer.echo(f"--region {escaped(text)}: positions are counted from 1, so that 0 is read as 1", err=True)
        first = 1
    if max(first, last) > length:
        raise IntervalError(f"--region {text} goes past the end of {contig}, which is {contig}:1-{length}")
    if last < first:
        raise IntervalError(f"--region {text} ends before it begins; write {name}:{last or 1}-{first}")
    return Interval(contig, first - 1, last)
