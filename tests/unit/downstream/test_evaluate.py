import pytest

from hnet_ntv2.downstream.evaluate import evaluate, run_units
from hnet_ntv2.downstream.plan import make_plan, task_data
from hnet_ntv2.downstream.report import write_report
from hnet_ntv2.downstream.summary import summarize
from hnet_ntv2.errors import ConfigError, DataError

from .evaluations import TinyTask, fakes, settings

__all__ = ["fakes"]


def report_bytes(plan, output) -> dict[str, str]:
    """The files of the report, without the dates of the units."""
    folder = write_report(summarize(plan, output), output)
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    dates = {record.content["provenance"]["date"] for record in summarize(plan, output).records}
    for date in dates:
        texts = {name: text.replace(date, "DATE") for name, text in texts.items()}
    return texts


def test_what_draws_nothing_is_done_once_per_fold(fakes):
    plan = make_plan(settings(seeds=(3, 4), models=("good",), tasks=("first",)))
    seeds = {(unit.model, unit.fold): [] for unit in plan.units}
    for unit in plan.units:
        seeds[unit.model, unit.fold].append(unit.seed)
    assert seeds["cnn", 0] == seeds["cnn", 1] == [3, 4]
    for name in ("kmers", "onehot", "good"):  # "good" is a probe
        assert seeds[name, 0] == seeds[name, 1] == [3]
    assert seeds["audit", 0] == [0]


def test_a_plan_is_the_same_each_time_and_other_data_are_other_units(fakes):
    first = make_plan(settings())
    assert make_plan(settings()) == first
    fakes.tasks[0] = TinyTask("first", first_row=1)
    from hnet_ntv2.downstream import plan

    plan._load.cache_clear()
    second = make_plan(settings())
    changed = {unit.task for unit, other in zip(first.units, second.units, strict=True) if unit.name != other.name}
    assert changed == {"first"}


def test_fewer_training_rows_are_other_units_and_the_same_rows_for_all_seeds(fakes):
    cut = settings(max_train_rows=7)
    assert {unit.name for unit in make_plan(cut).units if unit.mode != "audit"}.isdisjoint(
        unit.name for unit in make_plan(settings()).units
    )
    rows = [task_data(cut, "first", 0, seed).train.table.names for seed in (0, 1)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 7
    assert len(task_data(cut, "first", 0, 0).test.table) == 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modes": ("guess",)}, "--mode guess"),
        ({"baselines": ("magic",)}, "--baselines magic"),
        ({"folds": (2,)}, "folds 0 to 1"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "--seeds names one twice"),
        ({"models": ("kmers",)}, "same name"),
        ({"max_train_rows": 0}, "--max-train-rows"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_before_any_work(fakes, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(settings(**changes))
    assert fakes.calls == []


def test_a_killed_evaluation_goes_on_and_leaves_the_same_report(fakes, tmp_path):
    plan = make_plan(settings(seeds=(0, 1), tasks=("second",)))
    run_units(plan, tmp_path / "whole")
    expected = report_bytes(plan, tmp_path / "whole")
    num_calls = len(fakes.calls)

    fakes.calls.clear()
    fakes.killed_at = 4
    with pytest.raises(KeyboardInterrupt):
        run_units(plan, tmp_path / "killed")
    assert summarize(plan, tmp_path / "killed").status == "INCOMPLETE: 5 of 7 units."
    fakes.killed_at = None
    run_units(plan, tmp_path / "killed")
    assert len(fakes.calls) == num_calls + 1  # only the unit under way was lost
    assert report_bytes(plan, tmp_path / "killed") == expected


def test_the_function_does_all_and_gives_what_the_report_says(fakes, tmp_path):
    summary = evaluate(settings(tasks=("second",)), tmp_path)
    assert summary.is_complete
    assert {row.model for row in summary.rows} == {"good", "poor", "kmers", "onehot", "cnn"}
    assert (tmp_path / "report" / "report.html").is_file()


def test_a_failed_unit_stops_no_other_and_is_tried_again(fakes, tmp_path):
    plan = make_plan(settings())
    fakes.broken = {"poor"}
    run_units(plan, tmp_path)
    summary = summarize(plan, tmp_path)
    assert {(unit.model, error) for unit, error in summary.failed} == {("poor", "ValueError: nothing fits")}
    assert summary.num_finished == len(plan.units) - 3
    fakes.broken = set()
    run_units(plan, tmp_path)
    assert summarize(plan, tmp_path).is_complete


def test_shards_together_do_every_unit_once(fakes, tmp_path):
    plan = make_plan(settings())
    for part in ((1, 3), (2, 3), (3, 3)):
        assert not summarize(plan, tmp_path).is_complete
        run_units(plan, tmp_path, part=part)
    assert summarize(plan, tmp_path).is_complete
    assert len(fakes.calls) == sum(unit.mode != "audit" for unit in plan.units)


def test_scores_that_do_not_fit_the_test_rows_fail_the_unit(fakes, tmp_path, monkeypatch):
    import numpy as np

    from hnet_ntv2.downstream import contenders
    from hnet_ntv2.downstream.results import UnitResult

    bad = UnitResult(np.full((60, 2), np.nan, np.float32), 0.0, {}, 0.0)
    monkeypatch.setitem(contenders.RUNNERS, "probe", lambda *arguments: bad)
    plan = make_plan(settings(baselines=(), models=("good",), tasks=("second",)))
    run_units(plan, tmp_path)
    assert "finite" in summarize(plan, tmp_path).failed[0][1]


def test_a_task_without_dev_is_told_at_once(fakes, monkeypatch):
    import dataclasses

    whole = TinyTask.load
    monkeypatch.setattr(
        TinyTask, "load", lambda task, fold, seed: dataclasses.replace(whole(task, fold, seed), dev=None)
    )
    with pytest.raises(DataError, match="first has no dev table"):
        make_plan(settings())
