"""Draw a run's bits per base and chunk ratios over its optimiser steps, from the CSV logs."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DataError

Curves = dict[str, tuple[list[int], list[float]]]


def read_history(path: Path) -> Curves:
    """Read a CSV log as one curve of (steps, values) per column other than ``step``.

    Cells that are empty or not finite numbers are left out.

    Raises:
        DataError: if the file has no column ``step``.
    """
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames is None or "step" not in rows.fieldnames:
            raise DataError(f"{path} has no column 'step'; is it the log of a run?")
        curves: Curves = {}
        for row in rows:
            for name, cell in row.items():
                value = _number(cell)
                if name != "step" and value is not None:
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(int(row["step"]))
                    values.append(value)
    return curves


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "")  # None: a run that was killed left its last line unfinished
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def draw_curves(
    curves: Curves,
    path: Path,
    bits: Mapping[str, str],
    ratios: Mapping[str, str],
    levels: Mapping[str, float],
    targets: Sequence[float],
) -> None:
    """Save a PNG with two panels: bits per base above, chunk ratios below.

    Args:
        curves: From ``read_history``.
        path: PNG to write.
        bits: Column -> name in the legend, of the upper panel; columns that the log lacks are left out.
        ratios: The same for the lower panel.
        levels: Name -> bits per base of horizontal lines (the baselines).
        targets: Target ratio of each stage, as dashed lines.
    """
    # Imported here: matplotlib is slow to import. Not pyplot: it needs a display and keeps every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, wanted in ((above, bits), (below, ratios)):
        for column, name in wanted.items():
            if column in curves:
                marker = "." if len(curves[column][0]) < 5 else None  # a line through one point is invisible
                axes.plot(*curves[column], label=name, linewidth=1.2, marker=marker)
        axes.grid(alpha=0.3)
    for number, (name, level) in enumerate(levels.items()):
        above.axhline(level, color="0.4", linewidth=0.9, linestyle=("-", "--", "-.", ":")[number % 4], label=name)
    for target in targets:
        below.axhline(target, color="0.4", linewidth=0.9, linestyle="--")
    above.set_ylabel("cross-entropy (bits per masked base)")
    below.set_ylabel("chunks per position (dashed: target)")
    below.set_xlabel("optimiser step")
    for axes in (above, below):
        if axes.get_legend_handles_labels()[0]:  # matplotlib warns about an empty legend
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
