"""``hnet-ntv2 repeats``: convert RepeatMasker's table to the BED of repeats that pre-training reads."""

from pathlib import Path
from typing import Annotated

import typer

from .inference import echo_result


def repeats(
    source: Annotated[Path, typer.Argument(help="RepeatMasker's .out table, or Dfam's hits; plain or gzip.")],
    target: Annotated[Path, typer.Argument(help="BED file to write; .gz is bgzip, - is standard output.")],
) -> None:
    """Convert RepeatMasker's .out table (of any search engine) to BED, repeats of both strands included."""
    from ..genome import convert_repeatmasker
    from ..storage import check_outputs

    check_outputs({"TARGET": target}, {"SOURCE": source})
    count = convert_repeatmasker(source, target)
    echo_result(f"{count:,} repeats written to {target}", target)
