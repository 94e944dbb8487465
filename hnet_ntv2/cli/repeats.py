"""``hnet-ntv2 repeats``: RepeatMasker's table to the BED that pre-training takes as repeats."""

from pathlib import Path
from typing import Annotated

import typer


def repeats(
    source: Annotated[Path, typer.Argument(help="RepeatMasker's .out table, or Dfam's hits; plain or gzip.")],
    target: Annotated[Path, typer.Argument(help="BED file to write.")],
) -> None:
    """Convert RepeatMasker's .out table (of any search engine) to BED, repeats of both strands included."""
    from ..genome import convert_repeatmasker

    count = convert_repeatmasker(source, target)
    typer.echo(f"{count:,} repeats written to {target}")
