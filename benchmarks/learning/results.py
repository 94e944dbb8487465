"""Read the files of the experiment's runs, check that they can be compared, copy the small ones."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_ntv2.errors import DataError
from hnet_ntv2.storage import appearing_file

from .statistics import bits

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
# Files beside the runs: cost of the source, context counts, description, facts about the validation windows.
KEPT_FILES = ("source.json", "context.json", "setup.json", "windows.npz")
# Entries of ``setup.json`` that runs must share to be compared. Not the date, the device or torch's version.
_SAME_SETUP = ("size", "steps", "batch", "seq_length", "learning_rate", "model", "data")
_REQUIRED = (
    *("arm", "seed", "description", "steps", "train_bases", "cpu_seconds", "wall_seconds", "bases_per_second"),
    *("strands", "device", "curve", "validation", "ratios", "chunk_length", "parameters"),
)


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
    def device(self) -> str:
        return self.result["device"]

    @property
    def views(self) -> tuple[str, ...]:
        return tuple(self.result["validation"])


@dataclass(frozen=True)
class Experiment:
    """The content of a work folder.

    Attributes:
        baseline: Arm that every other one is compared with.
        arms: Runs of each arm in the order of their seeds; the baseline first, then by name.
        context: Bits per masked base of the predictors without a network.
        source: Cost of training the source.
        setup: Shapes, data, dates; copied into the report unchanged.
        references: Results of models over 6-mer tokens, which can be compared on the grid only.
    """

    baseline: str
    arms: dict[str, list[Run]]
    context: dict[str, float]
    source: dict[str, Any]
    setup: dict[str, Any]
    references: list[dict[str, Any]]


def read_experiment(work: Path, baseline: str = BASELINE) -> Experiment:
    """Read all runs under a work folder and check that they can be compared.

    Args:
        work: The folder.
        baseline: Arm that every other one is compared with.

    Raises:
        DataError: if a file is missing, unreadable or incomplete, the baseline has no run, or runs differ in what they
            were validated on; the message names the file.
    """
    folders = sorted(path for path in (work / "runs").glob("*/seed*") if path.is_dir())
    if not folders:
        raise DataError(f"no run found: {work / 'runs'} holds no <arm>/seed<k>")
    runs = sorted((_read_run(folder) for folder in folders), key=lambda run: run.seed)
    _check_same_validation(runs)
    names = sorted({run.result["arm"] for run in runs}, key=lambda name: (name != baseline, name))
    if names[0] != baseline:
        raise DataError(f"{work / 'runs' / baseline} is missing: every arm is compared with it")
    arms = {name: [run for run in runs if run.result["arm"] == name] for name in names}
    for members in arms.values():
        _check_same_training(members)
    context, source, setup = (_read_json(work / f"{name}.json") for name in ("context", "source", "setup"))
    if missing := [name for name in CONTEXT_NAMES if name not in context]:
        raise DataError(f"{work / 'context.json'} lacks {', '.join(missing)}")
    references = [_read_json(path) for path in sorted((work / "references").glob("*/seed*/result.json"))]
    return Experiment(baseline, arms, context, source, setup, references)


def copy_kept(source: Path, target: Path, *, replaces: bool) -> None:
    """Copy ``result.json`` and ``windows.npz`` of every run, the source model, and the files beside them.

    A report needs these, and further runs start from them. Checkpoints and logs of training are left out.

    Args:
        source: Folder of an experiment or of a report.
        target: Folder to copy to.
        replaces: Overwrite files that exist; otherwise they stay.

    Raises:
        DataError: if the source folder holds no run.
    """
    found = [path for kind in ("runs", "references") for path in sorted((source / kind).glob("*/seed*/*.*"))]
    wanted = [path for path in found if path.name in ("result.json", "windows.npz")]
    if not wanted:
        raise DataError(f"no run found: {source} holds no runs/<arm>/seed<k>/result.json")
    # Without code: a model folder may hold the flat files, and a report is data only.
    wanted += sorted(path for path in (source / "source").glob("*") if path.suffix != ".py")
    wanted += [source / name for name in KEPT_FILES if (source / name).exists()]
    for path in wanted:
        copy = target / path.relative_to(source)
        if replaces or not copy.exists():
            with appearing_file(copy) as partial:
                shutil.copyfile(path, partial)


def require_same_setup(kept: Path, setup: Mapping[str, Any]) -> None:
    """Check that the runs of a kept folder were made with the sizes and data of the runs to come.

    Raises:
        DataError: naming what differs, with both values.
    """
    theirs = _read_json(kept / "setup.json")
    for name in _SAME_SETUP:
        if theirs.get(name) != setup[name]:
            raise DataError(f"{kept} was made with {name}={theirs.get(name)!r}, this experiment has {setup[name]!r}")


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
    # A folder that was copied by hand and renamed would count as a second seed.
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
    """Check that ``windows.npz`` adds up to the bits and targets in ``result.json``: both are of the same run."""
    for view in run.views:
        nats, targets = run.windows[f"{view}/nats"], run.windows[f"{view}/targets"]
        stated = run.result["validation"][view]
        if not np.isfinite(nats).all() or not targets.sum() > 0:
            raise DataError(f"{run.path / 'windows.npz'}: {view!r} has no targets, or nats that are not finite")
        if stated["targets"] != targets.sum() or not math.isclose(stated["bits"], bits(nats, targets), rel_tol=1e-4):
            raise DataError(f"{run.path / 'windows.npz'} disagrees with result.json about {view!r}")


def _check_same_validation(runs: Sequence[Run]) -> None:
    """Check that all runs were validated on the same windows with the same masks, view by view."""
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
    """Check that the runs of one arm have the same steps and views, so that they differ by their seeds only."""
    first = members[0]
    for run in members[1:]:
        if (run.result["steps"], _steps(run)) != (first.result["steps"], _steps(first)):
            raise DataError(f"{run.path / 'result.json'} has other steps than {first.path / 'result.json'}, its arm")
        if set(run.views) != set(first.views):
            raise DataError(f"{run.path / 'result.json'} has other views than {first.path / 'result.json'}, its arm")


def _steps(run: Run) -> list[int]:
    return [point["step"] for point in run.result["curve"]]
