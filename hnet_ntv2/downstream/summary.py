"""From finished units to one row per task, model and mode: metric, spread, difference to the best baseline, audit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .contenders import BASELINE, RANDOM
from .metrics import Interval95, metric_interval, paired_difference
from .plan import Plan
from .units import AUDIT, Unit, UnitRecord, read_unit

NOT_CREDIBLE = "NOT CREDIBLE"
NOT_AUDITED = "not audited"


@dataclass(frozen=True)
class Row:
    """One model in one mode on one task, over its folds and seeds.

    Attributes:
        task: Its name.
        metric: In which all values are.
        model: As named in the plan.
        mode: baseline, probe, finetune or lora.
        units: Finished units.
        units_planned: All units; the row is a part of itself where fewer are finished.
        value: Mean over units of the metric of the whole test set.
        low: Of the 95 % bootstrap interval.
        high: Of the 95 % bootstrap interval.
        seeds_sd: Standard deviation over seeds of the mean over folds; None with one seed.
        folds_2sd: Two standard deviations over folds of the mean over seeds; None with one fold.
        dev: Mean of the metric on dev.
        best_baseline: The baseline of the highest metric on dev; None for baselines, and where there is none.
        difference: To the best baseline, with ``difference_low`` and ``difference_high``, paired by test row.
        win: yes and no if the interval of the difference lies above and below 0, else undecided; NOT CREDIBLE if the
            audit fails.
        audit: pass, warn, fail, ``not audited`` or ``not finished``.
        credible: yes, no, or unknown where no audit is finished.
        overlap: Share of test rows that overlap the intervals of pre-training; None if not asked, and for what was not
            pre-trained.
        num_parameters: Of the model.
        seconds: Sum over units.
    """

    task: str
    metric: str
    model: str
    mode: str
    units: int
    units_planned: int
    value: float
    low: float
    high: float
    seeds_sd: float | None
    folds_2sd: float | None
    dev: float | None
    best_baseline: str | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    win: str
    audit: str
    credible: str
    overlap: float | None
    num_parameters: int | None
    seconds: float

    @property
    def label(self) -> str:
        """Model and mode."""
        return f"{self.model} ({self.mode})"


@dataclass(frozen=True)
class Pair:
    """The paired difference of one row to another one on a task."""

    task: str
    model: str
    mode: str
    other_model: str
    other_mode: str
    difference: float
    low: float
    high: float
    win: str


@dataclass(frozen=True)
class Summary:
    """Everything that a report says.

    Attributes:
        plan: What was to be done.
        records: Finished units, in the order of the plan.
        rows: One per task, model and mode that has a finished unit.
        pairs: Of each model with every other row of its task; empty unless asked for.
        audits: Content of the finished audits, by task.
        failed: Units whose last attempt failed, with the error on one line.
    """

    plan: Plan
    records: tuple[UnitRecord, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    audits: Mapping[str, Mapping[str, Any]]
    failed: tuple[tuple[Unit, str], ...]

    @property
    def num_finished(self) -> int:
        """Finished units, audits included."""
        return len(self.records) + len(self.audits)

    @property
    def is_complete(self) -> bool:
        """Whether every unit is finished."""
        return self.num_finished == len(self.plan.units)

    @property
    def status(self) -> str:
        """One line for the top of every report."""
        if self.is_complete:
            return f"Complete: {self.num_finished} units."
        failed = f"; {len(self.failed)} failed" if self.failed else ""
        return f"INCOMPLETE: {self.num_finished} of {len(self.plan.units)} units{failed}."


Group = list[UnitRecord]


def summarize(plan: Plan, output: Path, all_pairs: bool = False) -> Summary:
    """Read the finished units of a plan and compare them.

    Args:
        plan: From ``make_plan``.
        output: The evaluation's folder.
        all_pairs: Whether to compare each model with every other row too: 1,000 draws for each pair.

    Raises:
        DataError: A unit's file is damaged, or the folds of a task have different test rows.
    """
    finished = [read_unit(unit, output) for unit in plan.units if unit.is_finished(output)]
    audits = {record.unit.task: record.content for record in finished if record.unit.mode == AUDIT}
    records = [record for record in finished if record.unit.mode != AUDIT]
    rows: list[Row] = []
    pairs: list[Pair] = []
    for task, of_task in groupby(records, lambda record: record.unit.task):
        groups = _group(of_task)
        if any(not np.array_equal(record.targets, groups[0][0].targets) for group in groups for record in group):
            raise DataError(f"{task}: its folds have different test rows; evaluate them one by one with --folds")
        best = _best_baseline(groups)
        rows += [_row(plan, group, best, audits.get(task)) for group in groups]
        pairs += _pairs(groups, _audit_verdict(plan, audits.get(task))) if all_pairs else ()
    missing = [unit for unit in plan.units if not unit.is_finished(output)]
    failed = tuple((unit, error) for unit in missing if (error := unit.read_error(output)) is not None)
    return Summary(plan, tuple(records), tuple(rows), tuple(pairs), audits, failed)


def _group(records: Iterator[UnitRecord]) -> list[Group]:
    """The records of each model and mode, in the order of the plan."""
    groups: dict[tuple[str, str], Group] = {}
    for record in records:
        groups.setdefault((record.unit.model, record.unit.mode), []).append(record)
    return list(groups.values())


def _best_baseline(groups: Sequence[Group]) -> Group | None:
    """The baseline of the highest mean metric on dev: chosen by test, it would have been chosen for its luck."""
    found = [(dev, group) for group in groups if group[0].unit.mode == BASELINE and (dev := _dev(group)) is not None]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _dev(group: Group) -> float | None:
    values = [record.content["dev"] for record in group]
    return None if None in values else float(np.mean(values))


def _row(plan: Plan, group: Group, best: Group | None, audit: Mapping[str, Any] | None) -> Row:
    unit, content = group[0].unit, group[0].content
    planned = sum((each.task, each.model, each.mode) == (unit.task, unit.model, unit.mode) for each in plan.units)
    interval = metric_interval(content["metric"], group[0].targets, [record.scores for record in group])
    verdict = _audit_verdict(plan, audit)
    is_baseline = unit.mode == BASELINE
    gap = None if best is None or is_baseline else _difference(group, best)
    return Row(
        task=unit.task,
        metric=content["metric"],
        model=unit.model,
        mode=unit.mode,
        units=len(group),
        units_planned=planned,
        **interval._asdict(),
        seeds_sd=_spread(group, lambda record: record.unit.seed),
        folds_2sd=None if (sd := _spread(group, lambda record: record.unit.fold)) is None else 2 * sd,
        dev=_dev(group),
        best_baseline=None if is_baseline or best is None else best[0].unit.model,
        difference=gap and gap.value,
        difference_low=gap and gap.low,
        difference_high=gap and gap.high,
        win="" if gap is None else _verdict(gap, verdict),
        audit=verdict,
        credible={"pass": "yes", "warn": "yes", "fail": "no"}.get(verdict, "unknown"),
        overlap=None if audit is None or not _is_pretrained(plan, unit) else audit.get("overlap"),
        num_parameters=content["num_parameters"],
        seconds=sum(record.content["seconds"] for record in group),
    )


def _is_pretrained(plan: Plan, unit: Unit) -> bool:
    return unit.mode != BASELINE and not plan.sources[unit.model].startswith(RANDOM)


def _spread(group: Group, key: Any) -> float | None:
    """Standard deviation (n - 1) between the means of the units with equal keys; None with one key."""
    values: dict[int, list[float]] = {}
    for record in group:
        values.setdefault(key(record), []).append(record.content["test"])
    means = [np.mean(np.array(each, float)) for each in values.values()]  # float: an undefined metric is stored as null
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def _difference(group: Group, other: Group) -> Interval95:
    scores, others = ([record.scores for record in each] for each in (group, other))
    return paired_difference(group[0].content["metric"], group[0].targets, scores, others)


def _audit_verdict(plan: Plan, audit: Mapping[str, Any] | None) -> str:
    if not plan.settings.audit:
        return NOT_AUDITED
    return "not finished" if audit is None else audit["verdict"]


def _verdict(difference: Interval95, audit: str) -> str:
    if audit == "fail":
        return NOT_CREDIBLE
    return "yes" if difference.low > 0 else "no" if difference.high < 0 else "undecided"


def _pairs(groups: Sequence[Group], audit: str) -> Iterator[Pair]:
    for group in groups:
        for other in groups:
            if group is other or group[0].unit.mode == BASELINE:
                continue
            unit, second, gap = group[0].unit, other[0].unit, _difference(group, other)
            names = unit.task, unit.model, unit.mode, second.model, second.mode
            yield Pair(*names, gap.value, gap.low, gap.high, _verdict(gap, audit))
