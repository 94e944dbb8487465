"""``hnet-ntv2 segment``: the model's chunks along a genome, for a genome browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError
from . import inference

if TYPE_CHECKING:
    from ..genome import Genome, Interval
    from ..segmentation import ChunkSummary


def segment(
    output: Annotated[
        Path,
        typer.Option(metavar="BED", help="Final chunks, one line each, 0-based and half-open; - is standard output."),
    ],
    genome: inference.GenomeOption = None,
    regions: Annotated[
        Path | None, typer.Option(metavar="BED", help="Segment these regions [default: every contig].")
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="REGION",
            help="One region, as chr20:1,000,001-1,010,000 (1-based, both ends included), chr20:1,000,001- or chr20.",
        ),
    ] = None,
    skip_bad_regions: inference.SkipOption = False,
    model: inference.ModelOption = None,
    strands: Annotated[
        inference.StrandChoice,
        typer.Option(help="The chunks of the forward strand, or of both: two sets, with the strand in column 6."),
    ] = inference.StrandChoice.forward,
    stage1: Annotated[Path | None, typer.Option(metavar="BED", help="Also write the chunks of stage 1.")] = None,
    probability: Annotated[
        Path | None,
        typer.Option(
            metavar="BEDGRAPH",
            help="Also write the probability that a stage-1 chunk begins at each base; not with --strands both.",
        ),
    ] = None,
    window: inference.WindowOption = None,
    flank: inference.FlankOption = None,
    batch_bases: inference.BatchOption = 16384,
    device: inference.DeviceOption = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an interrupted command left, to the same bytes.")
    ] = False,
) -> None:
    """Cut a genome, or regions of it, into the model's chunks; they tile each region without gap or overlap."""
    if regions is not None and region is not None:
        raise ConfigError(f"--regions {regions} and --region {region} contradict each other; leave one out")
    from ..inference.model import check_model_folder, load_model, model_fingerprint
    from ..segmentation import SegmentSettings, segment_regions
    from ..storage import check_outputs

    check_outputs(
        {"--output": output, "--stage1": stage1, "--probability": probability},
        {"--genome": genome, "--regions": regions, "--model": model},
    )
    check_model_folder(model)  # before a genome is read
    opened = inference.open_genome_file(genome)
    intervals = _intervals(opened, regions, region, skip_bad_regions)
    progress = inference.ProgressLines("bases segmented")
    # Known before the model is loaded, so that the lines of progress can say "of N".
    total = sum(map(len, intervals))
    summary = segment_regions(
        load_model(model, device),
        opened,
        intervals,
        output,
        stage1,
        probability,
        SegmentSettings(strands.value, window, flank, batch_bases),
        model_id=model_fingerprint(model),
        resume=resume,
        progress=lambda done: progress(done, total),
    )
    inference.echo_result(render(summary), output, stage1, probability)


def _intervals(genome: "Genome", regions: Path | None, region: str | None, skip_bad_regions: bool) -> list["Interval"]:
    from ..genome import Interval

    if regions is not None:
        return inference.read_regions_file(regions, genome, skip_bad_regions)
    if region is not None:
        return [inference.parse_region(region, genome)]
    return [Interval(contig, 0, length) for contig, length in genome.contigs.items()]


def render(summary: "ChunkSummary") -> str:
    """The summary as text: numbers of chunks, regions and bases, and the chunk lengths in bases."""
    lengths = f"p50 {summary.percentile(0.5)}, p95 {summary.percentile(0.95)}, max {summary.percentile(1.0)}"
    return (
        f"{summary.num_chunks:,} chunks in {summary.num_regions:,} regions of {summary.num_bases:,} bases\n"
        f"bases per chunk: mean {summary.mean_length:.2f}, {lengths}"
    )
