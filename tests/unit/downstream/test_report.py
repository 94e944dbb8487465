import csv
import json
import re
from html.parser import HTMLParser

import pytest

from hnet_ntv2.downstream.evaluate import run_units
from hnet_ntv2.downstream.plan import make_plan
from hnet_ntv2.downstream.published import read_published
from hnet_ntv2.downstream.report import write_report
from hnet_ntv2.downstream.summary import summarize
from hnet_ntv2.errors import ConfigError, DataError

from .evaluations import TinyTask, fakes, settings

__all__ = ["fakes"]
FILES = {"units.csv", "summary.csv", "summary.json", "report.md", "report.html"}
VOID = {"meta", "img", "link", "br"}


def evaluate(output, published=(), part=(1, 1), all_pairs=False, **changes):
    """Summary and texts of the report by file name."""
    plan = make_plan(settings(**{"tasks": ("second",)} | changes))
    run_units(plan, output, part=part)
    summary = summarize(plan, output, all_pairs)
    folder = write_report(summary, output, published)
    return summary, {path.name: path.read_text() for path in folder.iterdir()}


def row_of(summary, model):
    return next(row for row in summary.rows if row.model == model)


class Checker(HTMLParser):
    """Fails on tags that are closed in another order than opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_best_baseline_is_chosen_by_dev_and_a_win_needs_its_interval(fakes, tmp_path):
    summary, texts = evaluate(tmp_path)
    # onehot is the best on dev, and kmers on test.
    assert row_of(summary, "kmers").value > row_of(summary, "onehot").value
    assert row_of(summary, "good").best_baseline == row_of(summary, "poor").best_baseline == "onehot"
    assert row_of(summary, "good").win == "yes"
    assert row_of(summary, "good").difference_low > 0
    assert row_of(summary, "poor").win == "undecided"
    assert row_of(summary, "kmers").best_baseline is None
    assert set(texts) == FILES
    assert "never on test" in texts["report.md"]


def test_a_loss_is_told(fakes, tmp_path):
    fakes.skills |= {"onehot": (1.0, 0.9), "poor": (0.3, 0.9)}
    summary, _ = evaluate(tmp_path)
    assert row_of(summary, "poor").win == "no"


def test_spreads_are_over_folds_and_seeds(fakes, tmp_path):
    summary, texts = evaluate(tmp_path, tasks=("first",), seeds=(0, 1), models=("good",), modes=("probe", "lora"))
    probe, lora = (next(row for row in summary.rows if row.mode == mode) for mode in ("probe", "lora"))
    assert (probe.units, lora.units) == (2, 4)
    assert probe.seeds_sd is None
    assert probe.folds_2sd == 0  # the fake gives both folds the same scores
    assert lora.seeds_sd > 0
    assert "img" in texts["report.html"]


def test_an_unfinished_report_says_so_at_the_top_and_has_another_name(fakes, tmp_path):
    summary, texts = evaluate(tmp_path, part=(1, 2))
    status = f"INCOMPLETE: {summary.num_finished} of 6 units."
    assert summary.status == status
    assert [path.name for path in tmp_path.glob("report*")] == ["report-INCOMPLETE"]
    assert texts["report.md"].splitlines()[2] == f"**{status}**"
    assert texts["report.html"].index(status) < texts["report.html"].index("<h2>")
    assert json.loads(texts["summary.json"])["complete"] is False
    evaluate(tmp_path)
    assert [path.name for path in tmp_path.glob("report*")] == ["report"]


def test_a_failing_audit_marks_the_rows_in_every_output(fakes, tmp_path):
    fakes.audit = {"verdict": "fail", "told": ["30 copies"], "overlap": 0.5}
    summary, texts = evaluate(tmp_path, all_pairs=True)
    assert {row.credible for row in summary.rows} == {"no"}
    assert row_of(summary, "good").win == "NOT CREDIBLE"
    assert "NOT CREDIBLE" in texts["report.md"].split("## second")[1]
    for name in {*FILES, "pairs.csv"} - {"report.md"}:
        assert "NOT CREDIBLE" in texts[name], name
    assert "30 copies" in texts["report.md"]
    assert "50.0%" in texts["report.md"]


def test_without_an_audit_nothing_is_called_credible(fakes, tmp_path):
    summary, _ = evaluate(tmp_path, audit=False)
    assert {(row.audit, row.credible) for row in summary.rows} == {("not audited", "unknown")}


def test_pairs_compare_each_model_with_every_other_row(fakes, tmp_path):
    summary, texts = evaluate(tmp_path, all_pairs=True)
    found = {(pair.model, pair.other_model): pair for pair in summary.pairs}
    assert set(found) == {
        (a, b) for a in ("good", "poor") for b in ("good", "poor", "kmers", "onehot", "cnn") if a != b
    }
    assert found["good", "poor"].difference == pytest.approx(-found["poor", "good"].difference)
    assert found["good", "poor"].win == "yes"
    assert len(list(csv.DictReader(texts["pairs.csv"].splitlines()))) == len(found)


def test_the_page_is_well_formed_loads_nothing_and_shows_names_as_they_are(fakes, tmp_path):
    name = "<script>alert(1)</script>|*x*&"
    fakes.skills[name] = (0.9, 0.8)
    fakes.tasks = [TinyTask("<b>task", num_folds=1)]
    _, texts = evaluate(tmp_path, models=(name,), tasks=())
    checker = Checker()
    checker.feed(texts["report.html"])
    assert checker.open == []
    assert "script" not in checker.tags
    assert "http" not in texts["report.html"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|*x*&amp;" in texts["report.html"]
    assert "<script>" not in texts["report.md"]
    line = next(line for line in texts["report.md"].split("## ")[-1].splitlines() if "alert" in line)
    assert len(re.findall(r"(?<!\\)\|", line)) == 13  # 12 columns


def test_every_number_of_the_tables_is_in_the_machine_readable_files(fakes, tmp_path):
    summary, texts = evaluate(tmp_path)
    rows = list(csv.DictReader(texts["summary.csv"].splitlines()))
    assert [float(row["value"]) for row in rows] == [pytest.approx(row.value, rel=1e-5) for row in summary.rows]
    assert len(list(csv.DictReader(texts["units.csv"].splitlines()))) == len(summary.records)
    stored = json.loads(texts["summary.json"])
    assert [row["low"] for row in stored["rows"]] == [row.low for row in summary.rows]


def test_copied_figures_stand_in_columns_that_say_so(fakes, tmp_path):
    published = read_published("builtin", "nt-original")
    _, texts = evaluate(tmp_path, published)
    section = texts["report.md"].split("## Beside published figures")[1]
    assert "MergeDNA (copied from" in section
    assert "other protocol" in section
    assert "0.784" not in texts["report.md"].split("## Beside published figures")[0]
    assert "0.784" not in texts["summary.csv"]


def test_published_figures_are_read_from_a_table(tmp_path):
    path = tmp_path / "figures.csv"
    path.write_text("suite,task,metric,model,value,paper\ngue,tf/0,mcc,Other,0.7,Someone 2024\nnt,,mcc,X,0.1,Y\n")
    (row,) = read_published(str(path), "gue")
    assert (row.task, row.value) == ("tf/0", 0.7)
    assert row.heading == "Other (copied from Someone 2024, other protocol)"
    assert read_published("none", "gue") == ()
    path.write_text("suite,task,metric,model,value,paper\ngue,tf/0,mcc,Other,high,Someone\n")
    with pytest.raises(DataError, match=r"figures.csv, line 2: 'high'"):
        read_published(str(path), "gue")
    path.write_text("suite,task\n")
    with pytest.raises(DataError, match="no column 'metric'"):
        read_published(str(path), "gue")
    with pytest.raises(ConfigError, match="no such file"):
        read_published(str(tmp_path / "absent"), "gue")
