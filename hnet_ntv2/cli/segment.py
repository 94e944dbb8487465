"""``hnet-ntv2 segment``: the model's chunks along a genome, for a genome browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError
from .inference import (
    BatchOption,
    DeviceOption,
    FlankOption,
    GenomeOption,
    ModelOption,
    ProgressLines,
    SkipOption,
    StrandChoice,
    StrandsOption,
    open_genome_file,
    parse_region,
    read_regions_file,
)

if TYPE_CHECKING:
    from ..genome import Genome, Interval
    from ..segmentation import ChunkSummary


def segment(
    output: Annotated[Path, typer.Option(metavar="BED", help="Final chunks, one line each, 0-based and half-open.")],
    genome: GenomeOption = None,
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
    skip_bad_regions: SkipOption = False,
    model: ModelOption = None,
    strands: StrandsOption = StrandChoice.both,
    stage1: Annotated[Path | None, typer.Option(metavar="BED", help="Also write the chunks of stage 1.")] = None,
    probability: Annotated[
        Path | None,
        typer.Option(metavar="BEDGRAPH", help="Also write the probability that a stage-1 chunk begins at each base."),
    ] = None,
    window: Annotated[
        int, typer.Option(metavar="N", help="Longer regions are cut into overlapping windows of N bases.")
    ] = 6144,
    flank: FlankOption = None,
    batch_bases: BatchOption = 16384,
    device: DeviceOption = "auto",
) -> None:
    """Cut a genome, or regions of it, into the model's chunks; they tile each region without gap or overlap."""
    if regions is not None and region is not None:
        raise ConfigError(f"--regions {regions} and --region {region} contradict each other; leave one out")
    named = [str(path) for path in (output, stage1, probability) if path is not None]
    if len(set(named)) < len(named):
        raise ConfigError(f"two outputs have the same name: {', '.join(named)}")
    from ..inference.model import check_model_folder, load_model
    from ..segmentation import SegmentSettings, read_region_bases, segment_sequences, write_tracks

    check_model_folder(model)  # before a genome is read
    opened = open_genome_file(genome)
    intervals = _intervals(opened, regions, region, skip_bad_regions)
    settings = SegmentSettings(strands.value, window, flank, batch_bases)
    progress = ProgressLines("bases segmented")
    total = sum(map(len, intervals))
    segmented = segment_sequences(
        load_model(model, device),
        read_region_bases(opened, intervals),
        settings,
        lambda done: progress(done, total),
    )
    typer.echo(render(write_tracks(segmented, output, stage1, probability)))


def _intervals(genome: "Genome", regions: Path | None, region: str | None, skip_bad_regions: bool) -> list["Interval"]:
    from ..genome import Interval

    if regions is not None:
        return read_regions_file(regions, genome, skip_bad_regions)
    if region is not None:
        return [parse_region(region, genome)]
    return [Interval(contig, 0, length) for contig, length in genome.contigs.items()]


def render(summary: "ChunkSummary") -> str:
    """The summary as text."""
    lengths = f"p50 {summary.percentile(0.5)}, p95 {summary.percentile(0.95)}, max {summary.percentile(1.0)}"
    mean = summary.num_bases / summary.num_chunks
    return (
        f"{summary.num_chunks:,} chunks in {summary.num_regions:,} regions of {summary.num_bases:,} bases\n"
        f"bases per chunk: mean {mean:.2f}, {lengths}"
    )
