"""Put the runs of the experiment side by side: ``learning.json``, ``learning.md`` and ``learning.png``.

Bits are per masked base throughout, on the same masks in every arm; a cross-entropy over whole 6-mers (what the source
is trained with) is a different quantity and is never shown beside them.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_ntv2.errors import ConfigError, DataError, HNetNTV2Error

from .statistics import bits, bits_at_time, paired_bootstrap, steps_to_reach, steps_to_stay

BASELINE = "random"
MAIN_VIEW = "anchors_off"
ANCHORED = "anchors_on"
# The grid is another segmentation at evaluation than at training; it gets a table of its own.
GRID_VIEW = "grid"
CONTEXT_NAMES = {
    "uniform": "uniform guessing",
    "composition": "base composition",
    "k2": "context counts, 2 bases on each side",
    "k6": "context counts, 6 bases on each side",
}
_REQUIRED = (
    *("arm", "seed", "description", "steps", "train_bases", "cpu_seconds", "wall_seconds", "bases_per_second"),
    *("strands", "curve", "validation", "ratios", "chunk_length", "parameters"),
)
_SUBSETS = ("all", "repeat_rich", "rest")
# Okabe and Ito's colours without yellow (too pale for a line on white).
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", "-.")


@dataclass(frozen=True)
class Run:
    """One trained model.

    Attributes:
        path: Its folder.
        result: ``result.json``.
        windows: Arrays of ``windows.npz``, one entry per validation window.
    """

    path: Path
    result: dict[str, Any]
    windows: dict[str, NDArray]

    @property
    def seed(self) -> int:
        return self.result["seed"]

    @property
    def views(self) -> tuple[str, ...]:
        return tuple(self.result["validation"])


@dataclass(frozen=True)
class Experiment:
    """Everything that lies in a work folder.

    Attributes:
        arms: Runs of each arm in the order of their seeds; the baseline first, then by name.
        context: Bits per masked base of the predictors that count.
        source: What training the source cost.
        setup: Shapes, data, dates; passed on as it is.
        references: Results of models over 6-mer tokens, which can be compared on the grid only.
    """

    arms: dict[str, list[Run]]
    context: dict[str, float]
    source: dict[str, Any]
    setup: dict[str, Any]
    references: list[dict[str, Any]]


def read_experiment(work: Path) -> Experiment:
    """Read all runs under a work folder and check that they can be compared.

    Raises:
        DataError: if a file is missing, unreadable or incomplete, the baseline has no run, or runs differ in what they
            were validated on; the message names the file.
    """
    folders = sorted(path for path in (work / "runs").glob("*/seed*") if path.is_dir())
    if not folders:
        raise DataError(f"no run found: {work / 'runs'} holds no <arm>/seed<k>")
    runs = sorted((_read_run(folder) for folder in folders), key=lambda run: run.seed)
    _check_same_validation(runs)
    names = sorted({run.result["arm"] for run in runs}, key=lambda name: (name != BASELINE, name))
    if names[0] != BASELINE:
        raise DataError(f"{work / 'runs' / BASELINE} is missing: every arm is compared with it")
    arms = {name: [run for run in runs if run.result["arm"] == name] for name in names}
    for members in arms.values():
        _check_same_training(members)
    context, source, setup = (_read_json(work / f"{name}.json") for name in ("context", "source", "setup"))
    if missing := [name for name in CONTEXT_NAMES if name not in context]:
        raise DataError(f"{work / 'context.json'} lacks {', '.join(missing)}")
    references = [_read_json(path) for path in sorted((work / "references").glob("*/seed*/result.json"))]
    return Experiment(arms, context, source, setup, references)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object")
    return content


def _read_run(folder: Path) -> Run:
    path = folder / "result.json"
    result = _read_json(path)
    if missing := [name for name in _REQUIRED if name not in result]:
        raise DataError(f"{path} lacks {', '.join(missing)}")
    if (folder.parent.name, folder.name) != (result["arm"], f"seed{result['seed']}"):
        raise DataError(f"{path} is of arm {result['arm']!r}, seed {result['seed']}, which is not where it lies")
    if MAIN_VIEW not in result["validation"] or not result["curve"]:
        raise DataError(f"{path} has no validation of {MAIN_VIEW!r}, or an empty curve")
    if not all(math.isfinite(point["bits"]) for point in result["curve"]):
        raise DataError(f"{path}: the curve holds a value that is not finite; take the run out of the folder")
    run = Run(folder, result, _read_windows(folder / "windows.npz", tuple(result["validation"])))
    _check_sums(run)
    return run


def _read_windows(path: Path, views: Sequence[str]) -> dict[str, NDArray]:
    wanted = [f"{view}/{name}" for view in views for name in ("nats", "correct", "targets")]
    try:
        with np.load(path) as file:
            windows = {name: file[name] for name in (*wanted, "is_repeat_rich", "block")}
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as a NumPy archive: {error}") from None
    if len({array.shape for array in windows.values()}) > 1:
        raise DataError(f"{path}: arrays of different lengths; each has one entry per validation window")
    return windows


def _check_sums(run: Run) -> None:
    """Both files of a run tell the same bits and targets, or one of them is of another run."""
    for view in run.views:
        nats, targets = run.windows[f"{view}/nats"], run.windows[f"{view}/targets"]
        told = run.result["validation"][view]
        if not np.isfinite(nats).all() or not targets.sum() > 0:
            raise DataError(f"{run.path / 'windows.npz'}: {view!r} has no targets, or nats that are not finite")
        if told["targets"] != targets.sum() or not math.isclose(told["bits"], bits(nats, targets), rel_tol=1e-4):
            raise DataError(f"{run.path / 'windows.npz'} disagrees with result.json about {view!r}")


def _check_same_validation(runs: Sequence[Run]) -> None:
    """The same windows with the same masks in all runs, view by view."""
    first: dict[str, Run] = {}
    for run in runs:
        for name in ("block", "is_repeat_rich", *(f"{view}/targets" for view in run.views)):
            other = first.setdefault(name, run)
            if not np.array_equal(other.windows[name], run.windows[name]):
                raise DataError(
                    f"{run.path / 'windows.npz'} differs from {other.path / 'windows.npz'} in {name!r}: "
                    "the runs were not validated on the same masked windows"
                )


def _check_same_training(members: Sequence[Run]) -> None:
    first = members[0]
    for run in members[1:]:
        if (run.result["steps"], _steps(run)) != (first.result["steps"], _steps(first)):
            raise DataError(f"{run.path / 'result.json'} has other steps than {first.path / 'result.json'}, its arm")
        if set(run.views) != set(first.views):
            raise DataError(f"{run.path / 'result.json'} has other views than {first.path / 'result.json'}, its arm")


def _steps(run: Run) -> list[int]:
    return [point["step"] for point in run.result["curve"]]


def summarise(
    experiment: Experiment, reference: str, core: Sequence[str] = (), num_draws: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """All figures of the report as one JSON-ready dict.

    Args:
        experiment: From ``read_experiment``.
        reference: Arm that the others are compared with, beside the baseline.
        core: Arms of the first table and of the curves; all without it. The others were made by changing one thing of
            the reference.
        num_draws: Bootstrap draws of each interval.
        seed: Of the draws.

    Raises:
        ConfigError: if an arm is named that has no run.
    """
    arms = experiment.arms
    if unknown := [name for name in (reference, *core) if name not in arms]:
        raise ConfigError(f"no run of arm {unknown[0]!r}; there are {', '.join(arms)}")
    baseline = arms[BASELINE]
    end = _mean(baseline, lambda run: run.result["curve"][-1]["cpu_seconds"])
    goal = _mean(baseline, lambda run: run.result["curve"][-1]["bits"])
    goal_steps = steps_to_reach(mean_curve(baseline), goal)
    summary: dict[str, Any] = {
        "baseline": BASELINE,
        "reference": reference,
        "core": [name for name in arms if not core or name in {BASELINE, reference, *core}],
        "main_view": MAIN_VIEW,
        "num_draws": num_draws,
        "equal_time_cpu_seconds": end,
        "baseline_final_curve_bits": goal,
        "arms": {},
    }
    for name, runs in arms.items():
        others = [other for other in dict.fromkeys((BASELINE, reference)) if other != name]
        summary["arms"][name] = {
            **_describe(runs),
            "views": {view: _view_figures(runs, view) for view in runs[0].views},
            "differences": {other: _compare(runs, arms[other], num_draws, seed) for other in others},
            "equal_time": _equal_time(runs, end),
            "to_baseline_end": _to_goal(runs, goal, goal_steps),
            "curve": mean_curve(runs),
        }
    summary["grid_references"] = [_describe_reference(result) for result in experiment.references]
    return {**summary, "context": experiment.context, "source": experiment.source, "setup": experiment.setup}


def _describe_reference(result: Mapping[str, Any]) -> dict[str, Any]:
    """A 6-mer model's marginals per base, on the windows masked on the grid."""
    kept = ("arm", "seed", "description", "steps", "train_bases", "cpu_seconds", "parameters")
    return {**{name: result[name] for name in kept}, **result["validation"][GRID_VIEW]}


def _mean(runs: Sequence[Run], figure: Callable[[Run], float]) -> float:
    return float(np.mean([figure(run) for run in runs]))


def _describe(runs: Sequence[Run]) -> dict[str, Any]:
    """What an arm is, what it cost (means over seeds) and how it cuts its windows."""
    first = runs[0].result
    return {
        "description": first["description"],
        "num_seeds": len(runs),
        "seeds": [run.seed for run in runs],
        "steps": first["steps"],
        "train_bases": first["train_bases"],
        "parameters": first["parameters"],
        "strands": first["strands"],
        "cpu_seconds": _mean(runs, lambda run: run.result["cpu_seconds"]),
        "wall_seconds": _mean(runs, lambda run: run.result["wall_seconds"]),
        "bases_per_second": _mean(runs, lambda run: run.result["bases_per_second"]),
        "ratios": _mean_fields(runs, "ratios"),
        "chunk_length": _mean_fields(runs, "chunk_length"),
    }


def _mean_fields(runs: Sequence[Run], name: str) -> dict[str, Any] | None:
    """Mean over seeds of every entry of a field of ``result.json``; of "max" the largest; None where a run has none."""
    fields = [run.result[name] for run in runs]
    if any(field is None for field in fields):
        return None
    return {
        key: (np.max if key == "max" else np.mean)([field[key] for field in fields], axis=0).tolist()
        for key in fields[0]
    }


def _subsets(run: Run) -> dict[str, NDArray[np.bool_]]:
    is_repeat_rich = run.windows["is_repeat_rich"].astype(bool)
    return dict(zip(_SUBSETS, (np.ones_like(is_repeat_rich), is_repeat_rich, ~is_repeat_rich), strict=True))


def _view_figures(runs: Sequence[Run], view: str) -> dict[str, Any]:
    """Bits per masked base and accuracy of an arm, on all windows and on two kinds of them."""
    figures: dict[str, Any] = {}
    nats, correct = (np.stack([run.windows[f"{view}/{name}"] for run in runs]) for name in ("nats", "correct"))
    targets = runs[0].windows[f"{view}/targets"]
    for name, chosen in _subsets(runs[0]).items():
        total = int(targets[chosen].sum())
        if not total:
            figures[name] = None
            continue
        per_seed = bits(nats[:, chosen], targets[chosen])
        accuracy = correct[:, chosen].sum(axis=1) / total
        figures[name] = {
            "bits": float(per_seed.mean()),
            "bits_per_seed": per_seed.tolist(),
            "accuracy": float(accuracy.mean()),
            "accuracy_per_seed": accuracy.tolist(),
            "targets": total,
            "windows": int(chosen.sum()),
        }
    return figures


def _compare(runs: Sequence[Run], others: Sequence[Run], num_draws: int, seed: int) -> dict[str, Any]:
    """Differences in bits per masked base to another arm on the seeds that both have, by view and kind of window.

    None stands for a comparison that cannot be made: no seed in common, or fewer than two blocks.
    """
    partner = {run.seed: run for run in others}
    pairs = [(run, partner[run.seed]) for run in runs if run.seed in partner]
    return {
        view: {name: _difference(pairs, view, chosen, num_draws, seed) for name, chosen in _subsets(runs[0]).items()}
        for view in runs[0].views
        if view in others[0].views
    }


def _difference(
    pairs: Sequence[tuple[Run, Run]], view: str, chosen: NDArray[np.bool_], num_draws: int, seed: int
) -> dict[str, Any] | None:
    if not pairs:
        return None
    windows = pairs[0][0].windows
    targets, block = windows[f"{view}/targets"], windows["block"]
    if len(np.unique(block[chosen & (targets > 0)])) < 2:
        return None
    ours, theirs = (np.stack([pair[side].windows[f"{view}/nats"] for pair in pairs]) for side in (0, 1))
    found = paired_bootstrap(ours, theirs, targets, block, chosen, num_draws, seed)
    per_seed = bits((ours - theirs)[:, chosen], targets[chosen])
    return {**found._asdict(), "seeds": [pair[0].seed for pair in pairs], "per_seed": per_seed.tolist()}


def mean_curve(runs: Sequence[Run]) -> list[dict[str, float]]:
    """Learning curve of an arm, point by point: step, CPU seconds and bits as means over seeds, least and most bits."""
    points = zip(*(run.result["curve"] for run in runs), strict=True)
    return [
        {
            "step": together[0]["step"],
            "cpu_seconds": float(np.mean([point["cpu_seconds"] for point in together])),
            "bits": float(np.mean([point["bits"] for point in together])),
            "least": min(point["bits"] for point in together),
            "most": max(point["bits"] for point in together),
        }
        for together in points
    ]


def _equal_time(runs: Sequence[Run], cpu_seconds: float) -> dict[str, Any]:
    """Bits of the learning curves when the baseline ended; ``share`` is below 1 where the arm ended earlier."""
    per_seed = [bits_at_time(run.result["curve"], cpu_seconds) for run in runs]
    ended = _mean(runs, lambda run: run.result["curve"][-1]["cpu_seconds"])
    return {
        "bits": float(np.mean(per_seed)),
        "bits_per_seed": per_seed,
        "share": min(1.0, ended / cpu_seconds) if cpu_seconds else 1.0,
    }


def _to_goal(runs: Sequence[Run], goal: float, goal_steps: float | None) -> dict[str, Any]:
    """Steps of an arm's mean curve down to the baseline's end, and how many times fewer than the baseline's own.

    The baseline is held to the same rule: its steps are those at which its mean curve was first there, so that it gets
    a factor of 1 even if its curve was there before its last step.
    """
    steps = steps_to_reach(mean_curve(runs), goal)
    return {
        "steps": steps,
        "stays_from": steps_to_stay(mean_curve(runs), goal),
        "steps_per_seed": [steps_to_reach(run.result["curve"], goal) for run in runs],
        "speed_up": goal_steps / steps if steps and goal_steps is not None else None,
    }


def render_tables(summary: Mapping[str, Any]) -> str:
    """The figures as Markdown: core arms with the counting baselines, one-at-a-time arms, the grid, chunks and cost."""
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
    figures = summary["arms"][BASELINE]["views"][MAIN_VIEW]["all"]
    source = summary["source"]
    return (
        f"Bits per masked base on {figures['targets']:,} targets in {figures['windows']:,} validation windows, the "
        "same masks in every row; means over seeds; lower is better. Brackets: 95 % interval over blocks of windows "
        "and over seeds (* one seed pair: over windows only); differences are of the seeds that both arms have. Bits "
        "are with anchors off unless the heading says otherwise; curve bits are those of the fixed subset validated "
        f"during training. Speed-up: steps of {BASELINE} to its own last curve value, over steps of the arm to it.\n\n"
        f"Training the source took {source.get('steps', 'an unknown number of')} steps and "
        f"{_number(source.get('cpu_seconds'), ',.0f')} CPU seconds, which no figure of an arm contains."
    )


def _core_table(summary: Mapping[str, Any]) -> str:
    reference = summary["reference"]
    header = ["arm", "seeds", "bits", "repeat-rich", "rest", "bits, anchors on", "accuracy", f"bits less {BASELINE}"]
    others = [BASELINE] if reference == BASELINE else [BASELINE, reference]
    header += [f"bits less {reference}"] * (len(others) - 1) + [f"bits less {BASELINE}, anchors on"]
    header += _learning_header(summary)
    rows = []
    for name in summary["core"]:
        arm = summary["arms"][name]
        accuracy = f"{100 * arm['views'][MAIN_VIEW]['all']['accuracy']:.1f} %"
        row = [name, str(arm["num_seeds"]), *_bits_cells(arm), _bits(arm, ANCHORED), accuracy]
        differences = [
            *(_difference_cell(arm, other) for other in others),
            _difference_cell(arm, BASELINE, view=ANCHORED),
        ]
        rows.append([*row, *differences, *_learning_cells(summary, arm)])
    for key, name in CONTEXT_NAMES.items():
        rows.append([name, "", f"{summary['context'][key]:.4f}"] + [""] * (len(header) - 3))
    return _table(header, rows)


def _single_table(summary: Mapping[str, Any], names: Sequence[str]) -> str:
    reference = summary["reference"]
    header = ["arm", "seeds", "bits", "repeat-rich", "rest"]
    header += [f"bits less {reference}{where}" for where in ("", ", repeat-rich", ", rest")]
    header += ["bits, anchors on", f"bits less {reference}, anchors on", *_learning_header(summary)]
    rows = []
    for name in names:
        arm = summary["arms"][name]
        differences = [_difference_cell(arm, reference, subset) for subset in _SUBSETS]
        anchored = [_bits(arm, ANCHORED), _difference_cell(arm, reference, view=ANCHORED)]
        row = [name, str(arm["num_seeds"]), *_bits_cells(arm), *differences, *anchored]
        rows.append([*row, *_learning_cells(summary, arm)])
    return _table(header, rows)


def _grid_table(summary: Mapping[str, Any]) -> str:
    """Arms validated on the grid, the only figures of that kind in their table."""
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
    return _table(header, rows)


def _cost_table(summary: Mapping[str, Any]) -> str:
    header = ["arm", "chunks per position, masked", "mask-free", "bases per chunk: median", "95 %", "longest"]
    header += ["bases/s", "CPU s", "steps", "parameters"]
    rows = []
    for name, arm in summary["arms"].items():
        ratios, lengths = arm["ratios"] or {}, arm["chunk_length"] or {}
        cuts = [" / ".join(f"{ratio:.3f}" for ratio in ratios.get(key, ())) for key in ("masked", "mask_free")]
        cuts += [_number(lengths.get(key), ".3g") for key in ("p50", "p95", "max")]
        cost = [f"{arm[key]:,.0f}" for key in ("bases_per_second", "cpu_seconds", "steps", "parameters")]
        rows.append([name, *cuts, *cost])
    return _table(header, rows)


def _notes(summary: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {arm['description']}" for name, arm in summary["arms"].items())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _bits(arm: Mapping[str, Any], view: str, subset: str = "all") -> str:
    figures = arm["views"].get(view, {}).get(subset)
    return f"{figures['bits']:.4f}" if figures else ""


def _bits_cells(arm: Mapping[str, Any], view: str = MAIN_VIEW) -> list[str]:
    return [_bits(arm, view, subset) for subset in _SUBSETS]


def _difference_cell(arm: Mapping[str, Any], other: str, subset: str = "all", view: str = MAIN_VIEW) -> str:
    found = arm["differences"].get(other, {}).get(view, {}).get(subset)
    if found is None:
        return ""
    mark = "*" if found["num_seeds"] == 1 else ""
    return f"{found['estimate']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]{mark}"


def _learning_header(summary: Mapping[str, Any]) -> list[str]:
    seconds, goal = summary["equal_time_cpu_seconds"], summary["baseline_final_curve_bits"]
    return [
        f"curve bits after {seconds:,.0f} CPU s",
        f"steps to curve bits of {goal:.4f} (speed-up)",
        "stays there from",
    ]


def _learning_cells(summary: Mapping[str, Any], arm: Mapping[str, Any]) -> list[str]:
    equal, goal = arm["equal_time"], arm["to_baseline_end"]
    early = f" (ended at {equal['share']:.0%} of it)" if equal["share"] < 0.98 else ""
    steps = "not reached" if goal["steps"] is None else f"{goal['steps']:,.0f}"
    factor = "" if goal["speed_up"] is None else f" ({goal['speed_up']:.2f})"
    stays = "" if goal["stays_from"] is None else f"{goal['stays_from']:,.0f}"
    return [f"{equal['bits']:.4f}{early}", steps + factor, stays]


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Save a PNG: learning curves of the core arms on the left, differences of all arms to the reference on the right.

    The dashed lines are of all validation windows, the curves of the fixed subset that is validated during training.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    compared = [name for name in summary["arms"] if _main_difference(summary, name)]
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


def _main_difference(summary: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    return summary["arms"][name]["differences"].get(summary["reference"], {}).get(MAIN_VIEW, {}).get("all")


def _draw_forest(
    axes: Any, summary: Mapping[str, Any], compared: Sequence[str], styles: Mapping[str, dict[str, str]]
) -> None:
    """One line per arm: the difference as a dot, hollow where the interval is over windows only."""
    for place, name in enumerate(compared):
        found = _main_difference(summary, name)
        assert found is not None
        colour = styles[name]["color"] if name in styles else "0.35"
        axes.plot((found["low"], found["high"]), (place, place), color=colour, linewidth=1.8)
        fill = "white" if found["num_seeds"] == 1 else colour
        axes.plot(found["estimate"], place, marker="o", color=colour, markerfacecolor=fill, markersize=6)
    axes.axvline(0, color="0.45", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(compared)), compared)
    axes.set_ylim(len(compared) - 0.5, -0.5)
    meaning = "(left of zero: better; hollow: one seed, interval over windows only)"
    axes.set_xlabel(f"bits per masked base less those of {summary['reference']}\n{meaning}")
    axes.set_title("Final difference on all windows, 95 % intervals", fontsize="medium")
    axes.grid(alpha=0.3, axis="x")


def write_report(
    work: Path, output: Path, reference: str, core: Sequence[str] = (), num_draws: int = 2000
) -> dict[str, Any]:
    """Read the runs under ``work`` and write ``learning.json``, ``learning.md`` and ``learning.png`` into ``output``.

    Args:
        work: Folder with ``runs/``, ``context.json``, ``source.json`` and ``setup.json``.
        output: Folder to write to.
        reference: Arm that the others are compared with, beside the baseline.
        core: Arms of the first table and of the curves; all without it.
        num_draws: Bootstrap draws of each interval.

    Returns:
        What stands in ``learning.json``.
    """
    summary = summarise(read_experiment(work), reference, core, num_draws)
    output.mkdir(parents=True, exist_ok=True)
    (output / "learning.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    (output / "learning.md").write_text(render_tables(summary))
    draw(summary, output / "learning.png")
    return summary


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m benchmarks.learning.report WORK --output DIR --reference ARM [--core ARM ...]``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning.report", description="Compare the runs of the learning experiment."
    )
    parser.add_argument("work", type=Path, help="folder of the experiment, with runs/<arm>/seed<k>")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--reference", required=True, help="arm that the others are compared with")
    parser.add_argument("--core", nargs="+", default=(), help="arms of the first table and the curves; default: all")
    chosen = parser.parse_args(arguments)
    try:
        write_report(chosen.work, chosen.output, chosen.reference, chosen.core)
    except HNetNTV2Error as error:
        parser.error(str(error))
    print(f"wrote learning.json, learning.md and learning.png into {chosen.output}")


if __name__ == "__main__":
    main()
