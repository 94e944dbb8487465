"""``hnet-ntv2 evaluate`` on a folder of two tiny tasks, with real baselines."""

import csv
import json

import pytest

from hnet_ntv2.cli.main import main

from ..builders import random_letters, tiny_model


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    for task in ("motif", "other"):
        for seed, (split, rows) in enumerate({"train": 60, "dev": 30, "test": 30}.items()):
            place = folder / task / f"{split}.csv"
            place.parent.mkdir(exist_ok=True)
            with place.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["sequence", "label"])
                for row in range(rows):
                    letters = random_letters(30, seed=1000 * seed + row + 500 * (task == "other"))
                    writer.writerow([letters[:10] + ("TATAAA" if row % 2 else "GCGCGC") * 6 + letters[10:], row % 2])
    return folder


def run(suite, output, *options: str) -> int:
    """Exit code of the command without models' units."""
    words = ["evaluate", "--suite", suite, "--output", output, "--published", "none", "--no-audit", *options]
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    return ended.value.code or 0


BASELINES = ("--models", "none", "--baselines", "majority", "--baselines", "composition")


def test_shards_make_one_report_and_a_second_call_does_nothing_again(suite, tmp_path, capsys):
    assert run(suite, tmp_path, *BASELINES, "--shard", "1/2") == 0
    assert "INCOMPLETE: 2 of 4 units; 2 of 2 of this shard" in capsys.readouterr().out
    assert not list(tmp_path.glob("report*"))
    assert run(suite, tmp_path, *BASELINES, "--shard", "2/2") == 0
    rows = list(csv.DictReader((tmp_path / "report" / "summary.csv").read_text().splitlines()))
    assert {(row["task"], row["model"]): float(row["value"]) for row in rows} == {
        **{(task, "majority"): 0.0 for task in ("motif", "other")},
        **{(task, "composition"): 1.0 for task in ("motif", "other")},
    }
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("units/*/result.json")}
    assert len(times) == 4
    assert run(suite, tmp_path, *BASELINES) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
def test_two_processes_probe_and_fine_tune_models_and_a_failed_unit_is_told(suite, tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")  # a folder that no model loads from
    models = ("--models", f"tiny={tmp_path / 'model'}", "--models", f"empty=random:{tmp_path / 'empty'}")
    modes = ("--mode", "probe", "--mode", "finetune", "--finetune", "epochs=1", "--layers", "last")
    options = ("--baselines", "majority", "--processes", "2", "--tasks", "motif")
    assert run(suite, tmp_path / "out", *options, *models, *modes) == 1
    said = capsys.readouterr()
    assert "INCOMPLETE: 3 of 5 units; 2 failed" in said.out
    assert "failed: motif__0__0__empty__probe" in said.err
    stored = json.loads((tmp_path / "out" / "report-INCOMPLETE" / "summary.json").read_text())
    assert [each["unit"][3] for each in stored["failed"]] == ["empty", "empty"]
    assert {(row["model"], row["mode"]) for row in stored["rows"]} == {
        *(("majority", "baseline"), ("tiny", "probe"), ("tiny", "finetune"))
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shard", "3/2"), "--shard 3/2"),
        (("--models", "none", "--baselines", "magic"), "magic"),
        (("--models", "absent"), "absent"),
        (("--finetune", "epochs"), "KEY=VALUE"),
        (("--pretraining", "hg38.fa"), "FASTA,BED"),
        (("--finetune", "epoch=3", "--mode", "finetune"), "'epoch'"),
        (("--published", "absent.csv"), "no such file"),
        (("--models", "none", "--baselines", "none"), "nothing to evaluate"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_any_unit(suite, tmp_path, capsys, options, message):
    assert run(suite, tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
