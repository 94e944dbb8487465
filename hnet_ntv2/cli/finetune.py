"""``hnet-ntv2 finetune``: from a table of labelled sequences to the folder of a classifier."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .inference import DeviceOption, ModelOption, StrandChoice, open_genome_file
from .tables import LabelColumnOption, NameColumnOption, OverwriteOption, SequenceColumnOption, echo_metrics


class TaskChoice(StrEnum):
    """Values of ``--task``."""

    auto = "auto"
    classification = "classification"
    multilabel = "multilabel"
    regression = "regression"


class PoolingChoice(StrEnum):
    """Values of ``--pooling``."""

    mean = "mean"
    max = "max"
    first = "first"
    bins = "bins"
    attention = "attention"
    convolution = "convolution"


class RouterChoice(StrEnum):
    """Values of ``--routers``."""

    frozen = "frozen"
    ratio = "ratio"


class ReportChoice(StrEnum):
    """Values of ``--report-to``."""

    none = "none"
    csv = "csv"
    tensorboard = "tensorboard"
    wandb = "wandb"


def finetune(
    train: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Rows to fit: CSV, TSV, parquet, FASTA, or BED with --genome; plain or gzip."
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the classifier, which predict loads.")],
    dev: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows that choose the epoch [default: a tenth of --train].")
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rows to report metrics of, with intervals; they choose nothing."),
    ] = None,
    model: ModelOption = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train adapters and the head; the folder holds both merged.")
    ] = False,
    task: Annotated[TaskChoice, typer.Option(help="What the labels are; auto tells by them.")] = TaskChoice.auto,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="What dev chooses by [default: mcc, auroc or spearman, by task].")
    ] = None,
    genome: Annotated[Path | None, typer.Option(metavar="FASTA", help="FASTA or .2bit, for BED files.")] = None,
    sequence_column: SequenceColumnOption = "sequence",
    label_column: LabelColumnOption = "label",
    name_column: NameColumnOption = "name",
    pooling: Annotated[
        PoolingChoice, typer.Option(help="How vectors of bases become one of the sequence.")
    ] = PoolingChoice.convolution,
    strands: Annotated[
        StrandChoice, typer.Option(help="One strand, for tasks with an orientation, or the mean of both strands.")
    ] = StrandChoice.forward,
    reverse_complements: Annotated[
        bool,
        typer.Option("--reverse-complements", help="Train on reverse complements too; not for oriented tasks."),
    ] = False,
    epochs: Annotated[int, typer.Option(metavar="N", help="Most passes over --train.")] = 10,
    patience: Annotated[int, typer.Option(metavar="N", help="Stop after N epochs without a better --dev.")] = 3,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Rows of an optimiser step.")] = 32,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="F", help="Peak, of the outer layers [default: 1e-3; 2e-3 with --lora].")
    ] = None,
    head_rate: Annotated[float, typer.Option(metavar="F", help="Multiple of it for the head.")] = 1.0,
    trunk_rate: Annotated[float, typer.Option(metavar="F", help="Multiple of it for what comes from NTv2.")] = 1.0,
    routers: Annotated[
        RouterChoice,
        typer.Option(
            help="Freeze the routers, or train them and hold the ratios of chunker=learned by the ratio loss."
        ),
    ] = RouterChoice.frozen,
    lora_rank: Annotated[int, typer.Option(metavar="N", help="Rank of the adapters.")] = 8,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the head, the order of rows and the drawn strands.")] = 0,
    device: DeviceOption = "auto",
    report_to: Annotated[
        ReportChoice, typer.Option(help="csv is history.csv; the others write it as well.")
    ] = ReportChoice.csv,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last epoch of an interrupted run.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Fine-tune a model on labelled sequences, and report metrics on rows that it did not see."""
    from ..downstream.finetune import FinetuneSettings, finetune
    from ..storage import check_outputs
    from ..tasks.splits import load_tables

    settings = FinetuneSettings(
        mode="lora" if lora else "full",
        pooling=pooling.value,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        head_rate=head_rate,
        trunk_rate=trunk_rate,
        routers=routers.value,
        patience=patience,
        strands=strands.value,
        reverse_complement_augmentation=reverse_complements,
        lora_rank=lora_rank,
        report_to=report_to.value,
        progress=True,
    )
    check_outputs(
        {"--output": output}, {"--train": train, "--dev": dev, "--test": test, "--genome": genome, "--model": model}
    )
    data = load_tables(
        train,
        dev,
        test,
        kind=task.value,
        metric=metric,
        genome=None if genome is None else open_genome_file(genome),
        sequence_column=sequence_column,
        label_column=label_column,
        name_column=name_column,
        seed=seed,
    )
    for warning in data.warnings:
        typer.echo(f"warning: {warning}", err=True)
    result = finetune(
        data, settings, output, seed=seed, folder=model, device=device, resume=resume, overwrite=overwrite
    )
    for name in ("dev", "test"):
        if name in result.metrics:
            typer.echo(f"{name}: ", nl=False)
            echo_metrics(result.metrics[name])
    if "test_interval" in result.metrics:
        low, high = result.metrics["test_interval"]
        typer.echo(f"95 % interval of {data.metric} on test: {low:.4f} to {high:.4f}")
    typer.echo(f"epoch {result.metrics['epoch']} of {result.metrics['epochs']}; the classifier is in {output}")
