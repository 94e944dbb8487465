"""What the verbs that read tables of sequences share: names of columns, and metrics as lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from .inference import echo_result

SequenceColumnOption = Annotated[str, typer.Option(metavar="NAME", help="Column of sequences in a table.")]
LabelColumnOption = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Column of labels, or several split by commas; a column's number in BED, 4 unless given. FASTA has the "
        "label behind the last | of a header.",
    ),
]
NameColumnOption = Annotated[str, typer.Option(metavar="NAME", help="Column of names; numbers from 1 without it.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]


def echo_metrics(metrics: Mapping[str, float], output: Path | None = None) -> None:
    """Print metrics on one line, if there are any; on standard error if the output is standard output."""
    if metrics:
        echo_result("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()), output)
