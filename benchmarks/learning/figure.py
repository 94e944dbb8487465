"""Draw the summary: learning curves of the core arms, differences of all arms to the reference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .results import ANCHORED, CONTEXT_NAMES, MAIN_VIEW

# Okabe and Ito's colours without yellow (too pale for a line on white).
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", "-.")


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Save a PNG: learning curves of the core arms on the left, differences of all arms to the reference on the right.

    Dashed lines are over all validation windows, curves over the fixed subset that is validated during training.
    """
    # Not pyplot: it needs a display and keeps every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    compared = [name for name in summary["arms"] if _difference(summary, name, MAIN_VIEW)]
    height = max(5.5, 2.0 + 0.35 * max(len(compared), len(summary["core"])))
    figure = Figure(figsize=(13, height), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    styles = {
        name: {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _DASHES[number // len(_COLOURS) % len(_DASHES)]}
        for number, name in enumerate(summary["core"])
    }
    _draw_curves(left, summary, styles)
    _draw_forest(right, summary, compared, styles)
    figure.savefig(path, dpi=130)


def _draw_curves(axes: Any, summary: Mapping[str, Any], styles: Mapping[str, dict[str, str]]) -> None:
    seen: list[float] = []
    for name, style in styles.items():
        arm = summary["arms"][name]
        step, mean, least, most = ([p[key] for p in arm["curve"]] for key in ("step", "bits", "least", "most"))
        count = f"{arm['num_seeds']} seed" + "s" * (arm["num_seeds"] > 1)
        axes.plot(step, mean, label=f"{name} ({count})", linewidth=1.6, **style)
        axes.fill_between(step, least, most, color=style["color"], alpha=0.15, linewidth=0)
        seen += least + most
    for key, dashes in (("k2", (0, (6, 3))), ("k6", (0, (2, 2)))):
        level = summary["context"][key]
        axes.axhline(level, color="0.45", linewidth=1.1, linestyle=dashes, label=CONTEXT_NAMES[key])
        seen.append(level)
    # An untrained model can be far worse than guessing (2 bits); that part would flatten what was learned.
    if min(seen) < 2 < max(seen):
        margin = 0.05 * (2 - min(seen))
        axes.set_ylim(min(seen) - margin, min(max(seen), 2) + margin)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("validation cross-entropy, fixed subset, anchors off\n(bits per masked base; lower is better)")
    axes.set_title("Learning curves: mean over seeds, band from least to most", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize="small", frameon=False)


def _difference(summary: Mapping[str, Any], name: str, view: str) -> dict[str, Any] | None:
    return summary["arms"][name]["differences"].get(summary["reference"], {}).get(view, {}).get("all")


def _draw_forest(
    axes: Any, summary: Mapping[str, Any], compared: Sequence[str], styles: Mapping[str, dict[str, str]]
) -> None:
    """Two intervals per arm, anchors off (circle) and on (square); hollow where it is over windows only."""
    for place, name in enumerate(compared):
        colour = styles[name]["color"] if name in styles else "0.35"
        for shift, view, marker in ((-0.17, MAIN_VIEW, "o"), (0.17, ANCHORED, "s")):
            if (found := _difference(summary, name, view)) is None:
                continue
            height = place + shift
            axes.plot((found["low"], found["high"]), (height, height), color=colour, linewidth=1.6)
            fill = "white" if found["num_seeds"] == 1 else colour
            axes.plot(found["estimate"], height, marker=marker, color=colour, markerfacecolor=fill, markersize=5.5)
    axes.axvline(0, color="0.45", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(compared)), compared)
    axes.set_ylim(len(compared) - 0.5, -0.5)  # downwards, in the order of the tables
    meaning = "(left of zero: better; circle: anchors off, square: on;\nhollow: one seed, interval over windows only)"
    axes.set_xlabel(f"bits per masked base less those of {summary['reference']}\n{meaning}", fontsize="small")
    axes.set_title("Final difference on all windows, 95 % intervals", fontsize="medium")
    axes.grid(alpha=0.3, axis="x")
