"""What the verbs that use a trained model share: their options, the genome, and progress on standard error."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import IntervalError

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
BatchOption = Annotated[int, typer.Option(metavar="N", min=1, help="Most bases of one forward pass.")]


class ProgressLines:
    """Lines on standard error, at most one every few seconds."""

    def __init__(self, what: str, seconds: float = 5.0) -> None:
        self._what = what
        self._seconds = seconds
        self._begin = self._last = time.monotonic()

    def __call__(self, done: int, total: int | None = None) -> None:
        """Tell how far it is, if it is time to."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return
        self._last = now
        of_all = "" if total is None else f" of {total:,}"
        typer.echo(f"{done:,}{of_all} {self._what}, {now - self._begin:,.0f} s", err=True)


def open_genome_file(path: Path | None) -> "Genome":
    """The genome, with progress while its cache is built; the bundled piece for None, which is told."""
    from ..genome import open_genome
    from ..resources import bundled_genome

    if path is None:
        path = bundled_genome()
        typer.echo("no --genome: the bundled piece of human chromosome 20 is taken", err=True)
    return open_genome(path, progress=ProgressLines("bytes read for the genome cache"))


def parse_region(text: str, genome: "Genome") -> "Interval":
    """``contig:start-end`` or a whole ``contig``; commas may group digits. 0-based and half-open, as in BED.

    Raises:
        IntervalError: It is not of this form, or goes past the contig's end.
        ContigNotFound: The genome has no such contig.
    """
    from ..genome import Interval

    contig, separator, span = text.rpartition(":")
    if not separator:
        contig = genome.resolve(text)
        return Interval(contig, 0, genome.contigs[contig])
    start, _, end = (part.strip().replace(",", "") for part in span.partition("-"))
    if not (start.isdigit() and end.isdigit()):
        raise IntervalError(f"--region {text}: write contig:start-end, 0-based and half-open as in BED, or a contig")
    interval = Interval(genome.resolve(contig), int(start), int(end))
    genome.locate(interval)
    return interval
