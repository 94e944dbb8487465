"""Write the summary as Markdown tables: core arms, single changes, the grid, chunks and cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from .results import ANCHORED, CONTEXT_NAMES, GRID_VIEW, MAIN_VIEW
from .statistics import difference_cell
from .summary import SUBSETS


def render_tables(summary: Mapping[str, Any]) -> str:
    """The summary as Markdown text."""
    arms, reference = summary["arms"], summary["reference"]
    single = [name for name in arms if name not in summary["core"]]
    parts = ["# Learning experiment", _preamble(summary), "## Core arms", _core_table(summary)]
    if single:
        title = f"## One change at a time, against {reference}"
        parts += [title, _single_table(summary, [reference, *single])]
    if any(GRID_VIEW in arm["views"] for arm in arms.values()):
        parts += ["## Validation with the grid's chunks", _grid_table(summary)]
    parts += ["## Chunks and cost", _cost_table(summary), _notes(summary)]
    return "\n\n".join(parts) + "\n"


def _preamble(summary: Mapping[str, Any]) -> str:
    figures = summary["arms"][summary["baseline"]]["views"][MAIN_VIEW]["all"]
    source = summary["source"]
    return (
        f"Bits per masked base on {figures['targets']:,} targets in {figures['windows']:,} validation windows, the "
        "same masks in every row; means over seeds; lower is better. Brackets: 95 % interval over blocks of windows "
        "and over seeds (* one seed pair: over windows only); differences are of the seeds that both arms have. Bits "
        "are with anchors off unless the heading says otherwise; curve bits are those of the fixed subset validated "
        f"during training. Speed-up: steps of {summary['baseline']} to its own last curve value, over steps of the arm "
        "to it.\n\n"
        f"Training the source took {source.get('steps', 'an unknown number of')} steps and "
        f"{_number(source.get('cpu_seconds'), ',.0f')} CPU seconds, which no figure of an arm contains. Times of arms "
        f"are of runs on one kind of device only: {summary['device']}. An empty cell: not known."
    )


def _core_table(summary: Mapping[str, Any]) -> str:
    reference, baseline = summary["reference"], summary["baseline"]
    header = ["arm", "seeds", "bits", "repeat-rich", "rest", "bits, anchors on", "accuracy", f"bits less {baseline}"]
    others = [baseline] if reference == baseline else [baseline, reference]
    header += [f"bits less {reference}"] * (len(others) - 1) + [f"bits less {baseline}, anchors on"]
    header += _learning_header(summary)
    rows = []
    for name in summary["core"]:
        arm = summary["arms"][name]
        accuracy = f"{100 * arm['views'][MAIN_VIEW]['all']['accuracy']:.1f} %"
        row = [name, str(arm["num_seeds"]), *_bits_cells(arm), _bits(arm, ANCHORED), accuracy]
        differences = [
            *(_difference_cell(arm, other) for other in others),
            _difference_cell(arm, baseline, view=ANCHORED),
        ]
        rows.append([*row, *differences, *_learning_cells(summary, arm)])
    for key, name in CONTEXT_NAMES.items():
        rows.append([name, "", f"{summary['context'][key]:.4f}"] + [""] * (len(header) - 3))
    return markdown_table(header, rows)


def _single_table(summary: Mapping[str, Any], names: Sequence[str]) -> str:
    reference = summary["reference"]
    header = ["arm", "seeds", "bits", "repeat-rich", "rest"]
    header += [f"bits less {reference}{where}" for where in ("", ", repeat-rich", ", rest")]
    header += ["bits, anchors on", f"bits less {reference}, anchors on", *_learning_header(summary)]
    rows = []
    for name in names:
        arm = summary["arms"][name]
        differences = [_difference_cell(arm, reference, subset) for subset in SUBSETS]
        anchored = [_bits(arm, ANCHORED), _difference_cell(arm, reference, view=ANCHORED)]
        row = [name, str(arm["num_seeds"]), *_bits_cells(arm), *differences, *anchored]
        rows.append([*row, *_learning_cells(summary, arm)])
    return markdown_table(header, rows)


def _grid_table(summary: Mapping[str, Any]) -> str:
    """Arms validated on the grid. A table of its own: the grid's bits cannot be compared with those of free chunks."""
    header = ["arm", "seeds", "bits", "repeat-rich", "rest", "bits less " + summary["reference"]]
    rows = [
        [
            *(name, str(arm["num_seeds"]), *_bits_cells(arm, GRID_VIEW)),
            _difference_cell(arm, summary["reference"], view=GRID_VIEW),
        ]
        for name, arm in summary["arms"].items()
        if GRID_VIEW in arm["views"]
    ]
    for each in summary["grid_references"]:
        name = f"{each['arm']} ({each['description']})"
        rows.append([name, "1", f"{each['bits']:.4f}"] + [""] * (len(header) - 3))
    return markdown_table(header, rows)


def _cost_table(summary: Mapping[str, Any]) -> str:
    header = ["arm", "chunks per position, masked", "mask-free", "bases per chunk: median", "95 %", "longest"]
    header += ["bases/s", "CPU s", "steps", "parameters"]
    rows = []
    for name, arm in summary["arms"].items():
        ratios, lengths = arm["ratios"] or {}, arm["chunk_length"] or {}
        cuts = [" / ".join(f"{ratio:.3f}" for ratio in ratios.get(key, ())) for key in ("masked", "mask_free")]
        cuts += [_number(lengths.get(key), ".3g") for key in ("p50", "p95", "max")]
        cost = [_number(arm[key], ",.0f") for key in ("bases_per_second", "cpu_seconds", "steps", "parameters")]
        rows.append([name, *cuts, *cost])
    return markdown_table(header, rows)


def _notes(summary: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {arm['description']}" for name, arm in summary["arms"].items())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, without a newline at its end."""
    lines = [header, ["---"] * len(header), *rows]
    # A "|" in a cell would end it.
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _bits(arm: Mapping[str, Any], view: str, subset: str = "all") -> str:
    figures = arm["views"].get(view, {}).get(subset)
    return f"{figures['bits']:.4f}" if figures else ""


def _bits_cells(arm: Mapping[str, Any], view: str = MAIN_VIEW) -> list[str]:
    return [_bits(arm, view, subset) for subset in SUBSETS]


def _difference_cell(arm: Mapping[str, Any], other: str, subset: str = "all", view: str = MAIN_VIEW) -> str:
    return difference_cell(arm["differences"].get(other, {}).get(view, {}).get(subset))


def _learning_header(summary: Mapping[str, Any]) -> list[str]:
    seconds, goal = summary["equal_time_cpu_seconds"], summary["baseline_final_curve_bits"]
    return [
        "curve bits after equal time" if seconds is None else f"curve bits after {seconds:,.0f} CPU s",
        f"steps to curve bits of {goal:.4f} (speed-up)",
        "stays there from",
    ]


def _learning_cells(summary: Mapping[str, Any], arm: Mapping[str, Any]) -> list[str]:
    equal, goal = arm["equal_time"], arm["to_baseline_end"]
    # Within 2 % the curve's own end is the same as the baseline's.
    early = f" (ended at {equal['share']:.0%} of it)" if equal and equal["share"] < 0.98 else ""
    steps = "not reached" if goal["steps"] is None else f"{goal['steps']:,.0f}"
    factor = "" if goal["speed_up"] is None else f" ({goal['speed_up']:.2f})"
    stays = "" if goal["stays_from"] is None else f"{goal['stays_from']:,.0f}"
    return [f"{equal['bits']:.4f}{early}" if equal else "", steps + factor, stays]
