"""``hnet-ntv2 embed``: vectors of the rows of a table, the records of a FASTA file, or regions of a genome."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError, escaped
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
    WindowOption,
    echo_result,
    open_genome_file,
    read_regions_file,
)
from .tables import LabelColumnOption, SequenceColumnOption

if TYPE_CHECKING:
    from ..embedding import NamedSequence


def embed(
    output: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Result: .npz, .safetensors, .parquet or .h5ad, no pickles."),
    ],
    table: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Embed the rows of this table: CSV, TSV, parquet, FASTA, or BED with --genome; names, labels and "
            "coordinates are kept.",
        ),
    ] = None,
    sequence_column: SequenceColumnOption = "sequence",
    label_column: LabelColumnOption = "label",
    need_labels: Annotated[
        bool,
        typer.Option("--need-labels", help="Every row must have a label: in FASTA behind the last |, in BED column 4."),
    ] = False,
    fasta: Annotated[
        Path | None, typer.Option(metavar="FASTA", help="Embed every record of this file, record by record.")
    ] = None,
    genome: GenomeOption = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            metavar="BED",
            help="Embed these regions of --genome; those with - in column 6 are reverse complemented first.",
        ),
    ] = None,
    context: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Bases on each side of a region that are seen but not pooled."),
    ] = 0,
    skip_bad_regions: SkipOption = False,
    model: ModelOption = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="last, or an inner state: embeddings, stage1_encoder, trunk_0 ...; all for each of them; may be given "
            "several times [default: last].",
        ),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="mean, max or first over A, C, G, T, or bins, the means of 8 equal parts side by side; may be given "
            "several times [default: mean].",
        ),
    ] = None,
    strands: StrandsOption = StrandChoice.both,
    per_base: Annotated[
        bool, typer.Option("--per-base", help="Also store one vector per base of the first layer, N included.")
    ] = False,
    per_chunk: Annotated[
        bool,
        typer.Option("--per-chunk", help="Also store the trunk's vector of each chunk, with its start and end."),
    ] = False,
    window: WindowOption = None,
    flank: FlankOption = None,
    batch_bases: BatchOption = 16384,
    device: DeviceOption = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an interrupted command left, to the same bytes.")
    ] = False,
) -> None:
    """Embed sequences: one vector each per layer and pool, and one per base or chunk on demand."""
    if [table, fasta, regions].count(None) != 2:
        raise ConfigError("give either --fasta FASTA, or --regions BED with --genome FASTA, or --input FILE")
    if fasta is not None and genome is not None:
        raise ConfigError("--genome is for --regions; --fasta embeds whole records")
    if context and regions is None:
        raise ConfigError(f"--context {context} is for --regions: other sequences have no genome around them")
    from ..embedding import EmbedSettings, embed_to_file
    from ..embedding.formats import check_output
    from ..inference.model import check_model_folder, load_model, model_fingerprint
    from ..storage import check_outputs

    check_output(output, per_base or per_chunk)
    inputs = {"--input": table, "--fasta": fasta, "--genome": genome, "--regions": regions, "--model": model}
    check_outputs({"--output": output}, inputs)
    check_model_folder(model)  # before a genome is read
    settings = EmbedSettings(
        tuple(layer or ("last",)),
        tuple(pool or ("mean",)),
        strands.value,
        per_base,
        per_chunk,
        window,
        flank,
        batch_bases,
    )
    if regions is not None:
        sequences, identity = _regions(regions, genome, context, skip_bad_regions)
    elif fasta is not None:
        sequences, identity = _fasta(fasta, resume)
    else:
        assert table is not None
        sequences, identity = _table(table, genome, need_labels, sequence_column, label_column)
    summary = embed_to_file(
        load_model(model, device),
        sequences,
        output,
        settings,
        identity={"model": model_fingerprint(model), **identity},
        resume=resume,
        progress=ProgressLines("bases embedded"),
    )
    if summary.num_empty:
        typer.echo(
            f"{summary.num_empty:,} sequences have no A, C, G or T, the first is {escaped(summary.first_empty or '')}: "
            "their vectors are NaN",
            err=True,
        )
    echo_result(f"{summary.num_sequences:,} sequences embedded to {output}", output)


_Source = tuple[Iterator["NamedSequence"], dict[str, Any]]
"""The sequences, and what identifies them to a resumed job."""


def _regions(regions: Path, genome: Path | None, context: int, skip_bad_regions: bool) -> _Source:
    from ..embedding import read_regions

    opened = open_genome_file(genome)
    intervals = read_regions_file(regions, opened, skip_bad_regions, stranded=True)
    digest = hashlib.blake2b("\n".join(map(repr, intervals)).encode(), digest_size=16).hexdigest()
    identity = {"genome": opened.fingerprint, "regions": digest, "context": context}
    return read_regions(opened, intervals, context), identity


def _fasta(path: Path, resume: bool) -> _Source:
    from ..embedding import read_fasta
    from ..genome import file_digest
    from ..genome.files import check_readable, check_rereadable, is_pipe

    path = check_rereadable(path, "the input of --resume") if resume else check_readable(path)
    return read_fasta(path), {"fasta": None if is_pipe(path) else file_digest(path)}


def _table(path: Path, genome: Path | None, need_labels: bool, sequence_column: str, label_column: str) -> _Source:
    from ..embedding import table_sequences
    from ..genome import file_digest
    from ..tasks.reading import read_table

    opened = None if genome is None else open_genome_file(genome)
    table = read_table(
        path, genome=opened, need_labels=need_labels, sequence_column=sequence_column, label_column=label_column
    )
    columns = [sequence_column, label_column] if table.labels is not None else [sequence_column]
    identity = {"input": file_digest(path.expanduser()), "columns": columns}
    return table_sequences(table), identity | ({} if opened is None else {"genome": opened.fingerprint})
