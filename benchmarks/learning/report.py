"""Compare the runs of the experiment: ``learning.json``, ``learning.md`` and ``learning.png``.

Bits are per masked base, on the same masks in every arm. The source's training loss, a cross-entropy over whole 6-mers,
is another quantity and is never shown beside them.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hnet_ntv2.errors import HNetNTV2Error
from hnet_ntv2.storage import open_text

from .figure import draw
from .results import BASELINE, copy_kept, read_experiment
from .summary import summarise
from .tables import render_tables


def write_report(
    work: Path,
    output: Path,
    reference: str,
    core: Sequence[str] = (),
    num_draws: int = 2000,
    baseline: str = BASELINE,
) -> dict[str, Any]:
    """Read the runs under ``work`` and write ``learning.json``, ``learning.md`` and ``learning.png`` into ``output``.

    The bits of every window and run and the source model are copied beside them: the report can be computed again, and
    further runs can be added on another machine.

    Args:
        work: Folder with ``runs/``, ``context.json``, ``source.json`` and ``setup.json``.
        output: Folder to write to.
        reference: Arm that the others are compared with, besides the baseline.
        core: Arms of the first table and of the curves; all if empty.
        num_draws: Bootstrap draws of each interval.
        baseline: Arm that every other one is compared with.

    Returns:
        The content of ``learning.json``.
    """
    summary = summarise(read_experiment(work, baseline), reference, core, num_draws)
    with open_text(output / "learning.json") as file:
        file.write(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    with open_text(output / "learning.md") as file:
        file.write(render_tables(summary))
    draw(summary, output / "learning.png")
    if output != work:  # a report can be made in the work folder itself
        copy_kept(work, output, replaces=True)
    return summary


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m benchmarks.learning.report WORK --output DIR --reference ARM [--core ARM ...]``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning.report", description="Compare the runs of the learning experiment."
    )
    parser.add_argument("work", type=Path, help="folder of the experiment, with runs/<arm>/seed<k>")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--reference", required=True, help="arm that the others are compared with")
    parser.add_argument("--baseline", default=BASELINE, help=f"arm that all are compared with; default: {BASELINE}")
    parser.add_argument("--core", nargs="+", default=(), help="arms of the first table and the curves; default: all")
    chosen = parser.parse_args(arguments)
    try:
        write_report(chosen.work, chosen.output, chosen.reference, chosen.core, baseline=chosen.baseline)
    except HNetNTV2Error as error:
        parser.error(str(error))
    print(f"wrote learning.json, learning.md and learning.png into {chosen.output}")


if __name__ == "__main__":
    main()
