"""Compute all figures of the report: bits by arm, view and kind of window, paired differences, speed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_ntv2.errors import ConfigError

from .results import GRID_VIEW, MAIN_VIEW, Experiment, Run
from .statistics import bits, bits_at_time, paired_bootstrap, steps_to_reach, steps_to_stay

SUBSETS = ("all", "repeat_rich", "rest")


def summarise(
    experiment: Experiment, reference: str, core: Sequence[str] = (), num_draws: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """All figures of the report as one JSON-ready dict.

    Args:
        experiment: From ``read_experiment``.
        reference: Arm that the others are compared with, besides the baseline.
        core: Arms of the first table and of the curves; all if empty. The others were made by changing one thing of
            the reference.
        num_draws: Bootstrap draws of each interval.
        seed: Of the draws.

    Raises:
        ConfigError: if an arm is named that has no run.
    """
    arms = experiment.arms
    if unknown := [name for name in (reference, *core) if name not in arms]:
        raise ConfigError(f"no run of arm {unknown[0]!r}; there are {', '.join(arms)}")
    baseline = arms[experiment.baseline]
    # Times of different devices cannot be compared: only those of the device with most baseline runs are used.
    device = Counter(run.device for run in baseline).most_common(1)[0][0]
    timed = _timed(baseline, device)
    end = _mean(timed, lambda run: run.result["curve"][-1]["cpu_seconds"]) if timed else None
    goal = _mean(baseline, lambda run: run.result["curve"][-1]["bits"])
    goal_steps = steps_to_reach(mean_curve(baseline), goal)
    summary: dict[str, Any] = {
        "baseline": experiment.baseline,
        "reference": reference,
        "core": [name for name in arms if not core or name in {experiment.baseline, reference, *core}],
        "main_view": MAIN_VIEW,
        "num_draws": num_draws,
        "device": device,
        "equal_time_cpu_seconds": end,
        "baseline_final_curve_bits": goal,
        "arms": {},
    }
    for name, runs in arms.items():
        others = [other for other in dict.fromkeys((experiment.baseline, reference)) if other != name]
        summary["arms"][name] = {
            **_describe(runs, _timed(runs, device)),
            "views": {view: _view_figures(runs, view) for view in runs[0].views},
            "differences": {other: _compare(runs, arms[other], num_draws, seed) for other in others},
            "equal_time": _equal_time(_timed(runs, device), end),
            "to_baseline_end": _to_goal(runs, goal, goal_steps),
            "curve": mean_curve(runs),
        }
    summary["grid_references"] = [_describe_reference(result) for result in experiment.references]
    return {**summary, "context": experiment.context, "source": experiment.source, "setup": experiment.setup}


def _describe_reference(result: Mapping[str, Any]) -> dict[str, Any]:
    """Cost of a 6-mer model, and its bits per base from marginals on the windows masked on the grid."""
    kept = ("arm", "seed", "description", "steps", "train_bases", "cpu_seconds", "parameters")
    return {**{name: result[name] for name in kept}, **result["validation"][GRID_VIEW]}


def _timed(runs: Sequence[Run], device: str) -> list[Run]:
    """Runs of one device whose time is known (null stands for one that was measured wrongly)."""
    return [run for run in runs if run.device == device and run.result["cpu_seconds"] is not None]


def _mean(runs: Sequence[Run], figure: Callable[[Run], float]) -> float:
    return float(np.mean([figure(run) for run in runs]))


def _describe(runs: Sequence[Run], timed: Sequence[Run]) -> dict[str, Any]:
    """Description of an arm, its cost (means over the timed seeds), its chunk ratios and lengths."""
    first = runs[0].result
    costs = ("cpu_seconds", "wall_seconds", "bases_per_second")
    return {
        "description": first["description"],
        "num_seeds": len(runs),
        "seeds": [run.seed for run in runs],
        "steps": first["steps"],
        "train_bases": first["train_bases"],
        "parameters": first["parameters"],
        "strands": first["strands"],
        "timed_seeds": [run.seed for run in timed],
        **{cost: _mean(timed, lambda run, cost=cost: run.result[cost]) if timed else None for cost in costs},
        "ratios": _mean_fields(runs, "ratios"),
        "chunk_length": _mean_fields(runs, "chunk_length"),
    }


def _mean_fields(runs: Sequence[Run], name: str) -> dict[str, Any] | None:
    """Mean over seeds of each entry of a field of ``result.json``, the largest for "max"; None if a run lacks it."""
    fields = [run.result[name] for run in runs]
    if any(field is None for field in fields):
        return None
    return {
        key: (np.max if key == "max" else np.mean)([field[key] for field in fields], axis=0).tolist()
        for key in fields[0]
    }


def _subsets(run: Run) -> dict[str, NDArray[np.bool_]]:
    is_repeat_rich = run.windows["is_repeat_rich"].astype(bool)
    return dict(zip(SUBSETS, (np.ones_like(is_repeat_rich), is_repeat_rich, ~is_repeat_rich), strict=True))


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
    # Paired by seed: runs of one seed share weights and order of data, which cancels much of their spread.
    partner = {run.seed: run for run in others}
    pairs = [(run, partner[run.seed]) for run in runs if run.seed in partner]
    return {
        view: {name: difference(pairs, view, chosen, num_draws, seed) for name, chosen in _subsets(runs[0]).items()}
        for view in runs[0].views
        if view in others[0].views
    }


def difference(
    pairs: Sequence[tuple[Run, Run]], view: str, chosen: NDArray[np.bool_], num_draws: int = 2000, seed: int = 0
) -> dict[str, Any] | None:
    """Bits of the first runs less the second ones'; None without pairs, or where fewer than two blocks have targets."""
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


def mean_curve(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Learning curve of an arm, point by point: step, CPU seconds and bits as means over seeds, least and most bits."""
    # strict: runs of one arm were checked to have the same steps.
    points = zip(*(run.result["curve"] for run in runs), strict=True)
    return [
        {
            "step": together[0]["step"],
            "cpu_seconds": _mean_time([point["cpu_seconds"] for point in together]),
            "bits": float(np.mean([point["bits"] for point in together])),
            "least": min(point["bits"] for point in together),
            "most": max(point["bits"] for point in together),
        }
        for together in points
    ]


def _mean_time(seconds: Sequence[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]  # a mean over fewer seeds would be of another curve
    return float(np.mean(known)) if len(known) == len(seconds) else None


def _equal_time(runs: Sequence[Run], cpu_seconds: float | None) -> dict[str, Any] | None:
    """Bits of the learning curves when the baseline ended; ``share`` is below 1 where the arm ended earlier.

    None for an arm without a timed run on the baseline's device, and where the baseline's own time is not known.
    """
    if not runs or cpu_seconds is None:
        return None
    per_seed = [bits_at_time(run.result["curve"], cpu_seconds) for run in runs]
    ended = _mean(runs, lambda run: run.result["curve"][-1]["cpu_seconds"])
    return {
        "bits": float(np.mean(per_seed)),
        "bits_per_seed": per_seed,
        "share": min(1.0, ended / cpu_seconds) if cpu_seconds else 1.0,
    }


def _to_goal(runs: Sequence[Run], goal: float, goal_steps: float | None) -> dict[str, Any]:
    """Steps of an arm's mean curve down to the baseline's end, and how many times fewer than the baseline's own.

    The baseline follows the same rule: its steps are counted to where its mean curve first reached the goal, which may
    be before its last step. So its own factor is 1.
    """
    steps = steps_to_reach(mean_curve(runs), goal)
    return {
        "steps": steps,
        "stays_from": steps_to_stay(mean_curve(runs), goal),
        "steps_per_seed": [steps_to_reach(run.result["curve"], goal) for run in runs],
        "speed_up": goal_steps / steps if steps and goal_steps is not None else None,
    }
