"""``hnet-ntv2 variants``: score every allele of a VCF, BCF or table into a TSV."""

from pathlib import Path
from typing import Annotated

import typer

from . import inference


def variants(
    vcf: Annotated[
        Path,
        typer.Option(metavar="FILE", help="VCF or BCF, or a table with chrom, pos, ref, alt; plain, gzip or bgzip."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="TSV", help="Table with one line per allele, in the file's order; .gz is bgzip, - standard output."
        ),
    ],
    genome: inference.GenomeOption = None,
    model: inference.ModelOption = None,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Bases that the model sees around a variant [default: the length it was trained at, else 1024].",
        ),
    ] = None,
    near: Annotated[
        int, typer.Option(metavar="N", help="Bases on each side of an allele that count in delta and distances.")
    ] = 32,
    strands: inference.StrandsOption = inference.StrandChoice.both,
    skip_mismatches: Annotated[
        bool, typer.Option("--skip-mismatches", help="Report alleles that do not fit the genome instead of stopping.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the good lines of an interrupted job.")] = False,
    batch_bases: inference.BatchOption = 16384,
    device: inference.DeviceOption = "auto",
) -> None:
    """Score variants: masked log-odds of substitutions, change of unmasked log p and of embedding for every allele."""
    from ..inference.model import check_model_folder, load_model, model_fingerprint
    from ..storage import check_outputs
    from ..variant_effect import ScoreSettings, score_file

    check_outputs({"--output": output}, {"--vcf": vcf, "--genome": genome, "--model": model})
    check_model_folder(model)  # before a genome is read
    opened = inference.open_genome_file(genome)
    result = score_file(
        load_model(model, device),
        opened,
        vcf,
        output,
        ScoreSettings(window, near, strands.value, batch_bases),
        model_id=model_fingerprint(model),
        skip_mismatches=skip_mismatches,
        resume=resume,
        progress=inference.ProgressLines("alleles scored"),
    )
    if result.damage is not None:
        typer.echo(f"{result.damage}: this line and all after it are scored again", err=True)
    if resume:
        inference.echo_result(f"{result.num_kept:,} alleles were there already", output)
    skipped = f"{result.num_skipped:,} skipped"
    if result.num_mismatches:
        skipped += f", {result.num_mismatches:,} of them because they do not fit the genome"
    inference.echo_result(
        f"{result.num_alleles:,} alleles in {output}: {result.num_scored:,} scored, {skipped}", output
    )
