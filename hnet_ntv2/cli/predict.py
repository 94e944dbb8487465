"""``hnet-ntv2 predict``: classes and probabilities, or values, of sequences by a fine-tuned classifier."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from .inference import BatchOption, DeviceOption, GenomeOption, ProgressLines, echo_result, open_genome_file
from .tables import LabelColumnOption, NameColumnOption, OverwriteOption, SequenceColumnOption, echo_metrics


def predict(
    model: Annotated[Path, typer.Option(metavar="DIR", help="Folder that finetune wrote.")],
    output: Annotated[
        Path, typer.Option(metavar="FILE", help="Result, a row per record: .tsv, .tsv.gz, .parquet, or - as TSV.")
    ],
    input: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV, TSV, parquet, FASTA or BED, plain or gzip."),
    ] = None,
    regions: Annotated[Path | None, typer.Option(metavar="BED", help="Intervals of --genome.")] = None,
    genome: GenomeOption = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="The input has labels: check them, and print metrics of the predictions.")
    ] = False,
    sequence_column: SequenceColumnOption = "sequence",
    label_column: LabelColumnOption = "label",
    name_column: NameColumnOption = "name",
    overwrite: OverwriteOption = False,
    batch_bases: BatchOption = 16384,
    device: DeviceOption = "auto",
) -> None:
    """Predict with a fine-tuned classifier: one row per record, in the order of the input."""
    source = regions if input is None else input
    if source is None or (input is not None and regions is not None):
        raise ConfigError("give either --input FILE, or --regions BED with --genome FASTA")
    is_bed = source.name.lower().removesuffix(".gz").endswith(".bed")
    if genome is not None and not is_bed:
        raise ConfigError(f"--genome is for intervals; {source} is no .bed file")
    from ..downstream.predict import check_output, predict_file
    from ..storage import check_outputs, is_stream
    from ..tasks.reading import Columns

    check_output(output)
    check_outputs({"--output": output}, {"--input": input, "--regions": regions, "--genome": genome, "--model": model})
    if not overwrite and not is_stream(output) and output.expanduser().exists():
        raise ConfigError(f"--output {output} exists; name another one, or give --overwrite")
    result = predict_file(
        model,
        source,
        output,
        genome=open_genome_file(genome) if is_bed else None,
        columns=Columns(sequence_column, label_column, name_column),
        has_labels=labels,
        device=device,
        batch_bases=batch_bases,
        progress=ProgressLines("records predicted"),
    )
    if result.num_empty:
        typer.echo(f"{result.num_empty:,} records have no A, C, G or T: their predictions are NA", err=True)
    echo_metrics(result.metrics, output)
    echo_result(f"{result.num_rows:,} records predicted to {output}", output)
