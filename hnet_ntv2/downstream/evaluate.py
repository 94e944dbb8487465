"""Do the units of an evaluation that are not finished, in one process or several, and report on all."""

import dataclasses
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import DataError
from ..storage.git import git_state
from .contenders import RUNNERS
from .metrics import metric_interval
from .plan import EvaluateSettings, Plan, make_plan, task_data
from .published import BUILTIN, read_published
from .units import AUDIT, Unit, do_unit, shard

if TYPE_CHECKING:
    from .summary import Summary

Progress = Callable[[int, int], None]
_SECONDS_BETWEEN_LOOKS = 0.5


def evaluate(
    settings: EvaluateSettings,
    output: str | os.PathLike[str],
    *,
    processes: int = 1,
    published: str = BUILTIN,
    all_pairs: bool = False,
    progress: Progress | None = None,
) -> "Summary":
    """Evaluate models beside baselines: do the units that are not finished, and write the report; what it says.

    Args:
        settings: What to evaluate.
        output: Folder of units and reports; finished units in it are not done again.
        processes: As ``run_units``.
        published: As ``read_published``.
        all_pairs: As ``summarize``.
        progress: As ``run_units``.

    Raises:
        ConfigError, DataError, WeightsError: As ``make_plan``. What fails later is in ``failed`` of the result.
    """
    from .report import write_report  # imports matplotlib, which the processes of ``run_units`` do not need
    from .summary import summarize

    figures, plan = read_published(published, settings.suite), make_plan(settings)
    run_units(plan, Path(output), processes, progress=progress)
    summary = summarize(plan, Path(output), all_pairs)
    write_report(summary, Path(output), figures)
    return summary


def run_units(
    plan: Plan, output: Path, processes: int = 1, part: tuple[int, int] = (1, 1), progress: Progress | None = None
) -> None:
    """Do the units of a part of a plan that are not finished; failed ones are recorded in their folders.

    Several calls on one folder, also at the same time, share the work: a unit belongs to the process that has locked
    its folder.

    Args:
        plan: From ``make_plan``.
        output: The evaluation's folder.
        processes: New processes, which share the threads; with 1 the units are done in this one.
        part: i and n: every n-th unit, from the i-th.
        progress: Called with the numbers of finished and of all units of the part.
    """
    units = shard(plan.units, part)
    output.mkdir(parents=True, exist_ok=True)
    told = progress or (lambda done, total: None)
    for unit in units:
        unit.forget_error(output)
    if processes == 1:
        for done, unit in enumerate(units):
            told(done, len(units))
            _do(unit, plan, output)
        return
    # spawn: a forked process inherits torch's threads in an unknown state
    context = multiprocessing.get_context("spawn")
    threads = max(1, (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1) // processes)
    with _environment(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads)):
        # Daemons end with this process. Each starts elsewhere in the list, so that they do not meet at every unit.
        workers = [
            context.Process(target=_do_all, args=(units[at:] + units[:at], plan, output, threads), daemon=True)
            for at in (math.floor(index * len(units) / processes) for index in range(processes))
        ]
        for worker in workers:
            worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            told(sum(unit.is_finished(output) for unit in units), len(units))
    finally:  # Ctrl-C: only units under way are lost
        for worker in workers:
            worker.terminate()
            worker.join()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables for processes that are started in the block: their libraries read them once, when imported."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _do_all(units: Sequence[Unit], plan: Plan, output: Path, threads: int) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the first one ends the others
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    for unit in units:
        if parent is None or not parent.is_alive():  # it was killed, and could not end this one
            return
        _do(unit, plan, output)


def _do(unit: Unit, plan: Plan, output: Path) -> None:
    # Failed: another process of this call has just tried.
    if not unit.is_finished(output) and unit.read_error(output) is None:
        do_unit(unit, output, lambda: _audit(unit, plan) if unit.mode == AUDIT else _score(unit, plan))


def _score(unit: Unit, plan: Plan) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Fit, test and measure one unit."""
    data = task_data(plan.settings, unit.task, unit.fold, unit.seed)
    result = RUNNERS[unit.mode](plan.sources[unit.model], data, unit.seed, plan.settings.run)
    assert data.test is not None  # ``_load`` has checked it
    scores = result.scores.astype(np.float32)
    wanted = len(data.test.table), len(data.scheme.names)
    if scores.shape != wanted or not np.isfinite(scores).all():
        raise DataError(f"the scores have shape {scores.shape}, wanted {wanted}; or some are no finite numbers")
    targets = data.test.targets
    interval = metric_interval(data.metric, targets, scores)
    content = {
        "metric": data.metric,
        "test": interval.value,
        "test_interval_95": [interval.low, interval.high],
        "dev": result.dev_metric,
        "chosen": result.chosen,
        "seconds": round(result.seconds, 3),
        "num_parameters": result.num_parameters,
        "rows": {"train": len(data.train.table), "dev": len(data.dev.table) if data.dev else 0, "test": wanted[0]},
        "history": result.history,
        "provenance": {**_provenance(plan), **unit.identity},
    }
    return content, {"scores": scores, "targets": targets}


def _audit(unit: Unit, plan: Plan) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Audit one task: its first fold, which has the rows of all."""
    from .audit import Pretraining, audit_task, overlap_with_pretraining

    data = task_data(dataclasses.replace(plan.settings, max_train_rows=None), unit.task, unit.fold, unit.seed)
    audit = audit_task(data)
    content = dataclasses.asdict(audit) | {"provenance": {**_provenance(plan), **unit.identity}}
    if plan.settings.pretraining:
        assert data.test is not None  # ``_load`` has checked it
        overlap = overlap_with_pretraining(data.test.table, [Pretraining(*each) for each in plan.settings.pretraining])
        content |= {"overlap": overlap.share, "pretraining": dataclasses.asdict(overlap)}
    told = [str(finding) for finding in audit.findings if finding.status in ("warn", "fail")]
    return content | {"told": told}, {}


def _provenance(plan: Plan) -> dict[str, Any]:
    return {
        "package": __version__,
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": plan.settings.run.device,
    }


@cache  # three calls of git
def _commit() -> str | None:
    return git_state()["commit"]
