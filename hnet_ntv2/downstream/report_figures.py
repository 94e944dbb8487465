"""Figures of a report as SVG: dots with intervals and learning curves of a task, ranks over all tasks."""

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from .contenders import BASELINE
from .report_text import rank_rows
from .summary import Row, Summary

# Names are text that a browser can search, and ids the same in every run; "none" also keeps $ from being read as TeX.
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "hnet-ntv2", "text.parse_math": False}
_COLORS = {BASELINE: "#888888", "probe": "#1f77b4", "finetune": "#d62728", "lora": "#2ca02c"}
_WIDTH = 8.0


def draw_figures(summary: Summary) -> dict[str, list[tuple[str, bytes]]]:
    """Titles and SVGs of all figures by task; the ranks over all tasks by ""."""
    figures: dict[str, list[tuple[str, bytes]]] = {}
    with rc_context(_STYLE):
        for task, rows in groupby(summary.rows, lambda row: row.task):
            figures[task] = [(f"{task}: test metric with 95 % intervals", draw_dots(list(rows)))]
            curves = {
                f"{record.unit.model} ({record.unit.mode}), fold {record.unit.fold}, seed {record.unit.seed}": history
                for record in summary.records
                if record.unit.task == task and len(history := record.content["history"]) > 1
            }
            if curves:
                figures[task].append((f"{task}: learning curves", draw_curves(curves, summary.plan.metrics[task])))
        if figures:
            figures[""] = [("Mean rank over tasks", draw_ranks(summary.rows))]
    return figures


def draw_dots(rows: Sequence[Row]) -> bytes:
    """SVG of one task: a dot with its interval per model and mode, the first at the top."""
    figure, axes = _axes(len(rows))
    for place, row in enumerate(rows):
        color = _COLORS.get(row.mode, "black")
        axes.plot([row.low, row.high], [place, place], color=color)
        axes.plot([row.value], [place], "o", color=color)
    _name(axes, [row.label for row in rows])
    axes.set_xlabel(f"{rows[0].metric} on test")
    return _svg(figure)


def draw_ranks(rows: Sequence[Row]) -> bytes:
    """SVG of the ranks of each model and mode: a small dot per task, a large one for the mean."""
    ranks: dict[tuple[str, str], list[float]] = {}
    for row, rank in rank_rows(rows).items():
        ranks.setdefault((row.label, row.mode), []).append(rank)
    ordered = sorted(ranks.items(), key=lambda item: (sum(item[1]) / len(item[1]), item[0]))
    figure, axes = _axes(len(ordered))
    for place, ((_, mode), values) in enumerate(ordered):
        color = _COLORS.get(mode, "black")
        axes.plot(values, [place] * len(values), "o", color=color, markersize=3, alpha=0.5)
        axes.plot([sum(values) / len(values)], [place], "o", color=color, markersize=8)
    _name(axes, [label for (label, _), _ in ordered])
    axes.set_xlabel("rank within a task (1 is best)")
    return _svg(figure)


def draw_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], metric: str) -> bytes:
    """SVG of the metric on dev over epochs, one line per unit, from the rows of ``UnitResult.history``."""
    figure, axes = _axes(8)
    column = f"dev_{metric}"
    for label, history in histories.items():
        points = [point for point in history if point.get(column) is not None]
        axes.plot([point["epoch"] for point in points], [point[column] for point in points], marker=".", label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{metric} on dev")
    axes.legend(fontsize=7)
    return _svg(figure)


def _axes(lines: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, 0.9 + 0.28 * lines), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="x", color="#dddddd")
    return figure, axes


def _name(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)  # the first at the top


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})  # no date: equal numbers give equal bytes
    return buffer.getvalue()
