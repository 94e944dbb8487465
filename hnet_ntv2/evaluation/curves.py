"""Draw a run's bits per base and chunk ratios over its optimiser steps, from the CSV logs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..measuring import read_history

Curves = dict[str, tuple[list[int], list[float]]]


def read_curves(path: Path) -> Curves:
    """Read a CSV log as one curve of (steps, values) per column other than ``step``; only finite values.

    Raises:
        DataError: It is no log of a run.
    """
    curves: Curves = {}
    for row in read_history(path):
        for name, value in row.items():
            if name != "step" and math.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(int(row["step"]))
                values.append(value)
    return curves


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
        curves: From ``read_curves``.
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
