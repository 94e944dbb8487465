"""The report on made-up runs: its numbers against direct computation, and what it refuses."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning.report import main, write_report
from benchmarks.learning.results import copy_kept, read_experiment, require_same_setup
from benchmarks.learning.summary import summarise
from benchmarks.learning.tables import render_tables
from hnet_ntv2.errors import ConfigError, DataError

WINDOWS, LN2 = 60, math.log(2)
BLOCK = np.repeat(np.arange(12), 5)
LEVELS = {"random": 1.95, "graft": 1.90, "graft_no_anchors": 1.92}
SEEDS = {"random": (0, 1, 2), "graft": (0, 1, 2), "graft_no_anchors": (1,)}


def targets(view: str) -> np.ndarray:
    return np.random.default_rng(len(view)).integers(5, 30, size=WINDOWS)


def write_run(work: Path, arm: str, seed: int) -> None:
    folder = work / "runs" / arm / f"seed{seed}"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1000 * seed + len(arm))
    windows = {"is_repeat_rich": np.arange(WINDOWS) % 3 == 0, "block": BLOCK}
    validation = {}
    for view in ("anchors_off", "grid") if arm == "random" else ("anchors_off", "anchors_on", "grid"):
        count = targets(view)
        nats = (LEVELS[arm] + rng.normal(0, 0.02, size=WINDOWS)) * count * LN2
        correct = rng.binomial(count, 0.35)
        windows |= {f"{view}/nats": nats, f"{view}/correct": correct, f"{view}/targets": count}
        total = int(count.sum())
        bits, accuracy = float(nats.sum() / total / LN2), float(correct.sum() / total)
        validation[view] = {"bits": bits, "accuracy": accuracy, "targets": total, "windows": WINDOWS}
    np.savez(folder / "windows.npz", **windows)
    # Straight down from 2.1 to the arm's level within 100 steps; half as fast per step where not random.
    speed = 1.0 if arm == "random" else 2.0
    curve = [
        {"step": step, "cpu_seconds": speed * step, "bits": 2.1 - (2.1 - LEVELS[arm]) * step / 100 + 0.001 * seed}
        for step in range(0, 101, 10)
    ]
    result = {
        **{"arm": arm, "seed": seed, "description": f"made-up {arm}", "steps": 100, "train_bases": 100_000},
        **{"cpu_seconds": 100 * speed, "wall_seconds": 60 * speed, "bases_per_second": 1000 / speed},
        **{"strands": "forward", "device": "a CPU", "curve": curve, "validation": validation, "parameters": 12_345},
        "ratios": None if arm == "random" else {"masked": [0.31 + seed / 100, 0.5], "mask_free": [0.30, 0.52]},
        "chunk_length": None if arm == "random" else {"p50": 5, "p95": 12, "max": 20 + seed},
    }
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for arm, seeds in SEEDS.items():
        for seed in seeds:
            write_run(tmp_path, arm, seed)
    context = {"uniform": 2.0, "composition": 1.97, "k2": 1.94, "k6": 1.91}
    source = {"steps": 3600, "train_bases": 10**7, "cpu_seconds": 4321.0, "parameters": 10**6, "layers": 8}
    setup = {"seq_length": 768, "device": "cpu", "nested": {"as": ["it", "is"]}}
    for name, content in (("context", context), ("source", source), ("setup", setup)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def load(work: Path, arm: str, view: str = "anchors_off", name: str = "nats") -> np.ndarray:
    return np.stack(
        [np.load(work / "runs" / arm / f"seed{seed}" / "windows.npz")[f"{view}/{name}"] for seed in SEEDS[arm]]
    )


def test_writes_three_files_with_the_right_numbers(work, tmp_path):
    output = tmp_path / "report"
    main([str(work), "--output", str(output), "--reference", "graft", "--core", "random", "graft"])
    made_from = {"runs", "context.json", "source.json", "setup.json"}
    assert {path.name for path in output.iterdir()} == {"learning.json", "learning.md", "learning.png"} | made_from
    assert (output / "learning.png").stat().st_size > 10_000
    summary = json.loads((output / "learning.json").read_text())
    for name in ("context", "source", "setup"):
        assert summary[name] == json.loads((work / f"{name}.json").read_text())
    assert summary["core"] == ["random", "graft"]
    is_repeat_rich = np.arange(WINDOWS) % 3 == 0
    subsets = {"all": slice(None), "repeat_rich": is_repeat_rich, "rest": ~is_repeat_rich}
    for arm in LEVELS:
        for view in ("anchors_off", "grid"):
            for subset, chosen in subsets.items():
                count = targets(view)[chosen].sum()
                figures = summary["arms"][arm]["views"][view][subset]
                per_seed = load(work, arm, view)[:, chosen].sum(axis=1) / count / LN2
                assert figures["bits_per_seed"] == pytest.approx(per_seed)
                assert figures["bits"] == pytest.approx(per_seed.mean())
                assert figures["accuracy"] == pytest.approx(
                    (load(work, arm, view, "correct")[:, chosen].sum(axis=1) / count).mean()
                )
    found = summary["arms"]["graft"]["differences"]["random"]["anchors_off"]["all"]
    direct = (load(work, "graft") - load(work, "random")).sum(axis=1) / targets("anchors_off").sum() / LN2
    assert found["per_seed"] == pytest.approx(direct)
    assert found["estimate"] == pytest.approx(direct.mean())
    assert found["low"] < found["estimate"] < found["high"] < 0
    assert "anchors_on" not in summary["arms"]["graft"]["differences"]["random"]


def test_a_single_seed_is_paired_with_its_own(work):
    summary = summarise(read_experiment(work), "graft", num_draws=100)
    found = summary["arms"]["graft_no_anchors"]["differences"]["graft"]["anchors_off"]["all"]
    ours, theirs = load(work, "graft_no_anchors")[0], load(work, "graft")[1]
    assert found["estimate"] == pytest.approx((ours - theirs).sum() / targets("anchors_off").sum() / LN2)
    assert (found["num_seeds"], found["seeds"]) == (1, [1])


def test_learning_speed_and_chunks(work):
    arms = summarise(read_experiment(work), "graft", num_draws=10)["arms"]
    # Seeds add 0.001 on average; the graft falls 0.2 per 100 steps, the baseline 0.15, in half the CPU time per step.
    assert arms["random"]["to_baseline_end"]["steps"] == pytest.approx(100)
    assert arms["random"]["to_baseline_end"]["speed_up"] == pytest.approx(1)
    assert arms["graft"]["to_baseline_end"]["steps"] == pytest.approx(75)
    assert arms["graft"]["to_baseline_end"]["speed_up"] == pytest.approx(4 / 3)
    assert arms["graft"]["equal_time"]["bits"] == pytest.approx(2.1 - 0.2 / 2 + 0.001)
    assert arms["graft"]["ratios"] == {"masked": pytest.approx([0.32, 0.5]), "mask_free": pytest.approx([0.30, 0.52])}
    assert arms["graft"]["chunk_length"] == {"p50": 5, "p95": 12, "max": 22}
    assert arms["graft"]["bases_per_second"] == 500
    assert arms["random"]["ratios"] is None
    first = {"step": 0, "cpu_seconds": 0, "bits": 2.101, "least": 2.1, "most": 2.102}
    assert arms["graft"]["curve"][0] == pytest.approx(first)


def test_a_report_holds_what_it_was_made_from(work, tmp_path):
    output, other = tmp_path / "report", tmp_path / "other"
    summary = write_report(work, output, "graft", num_draws=50)
    (work / "runs" / "graft" / "seed0" / "training").mkdir()
    copy_kept(output, other, replaces=False)
    assert summarise(read_experiment(other), "graft", num_draws=50) == summary
    with pytest.raises(DataError, match="holds no runs"):
        copy_kept(tmp_path / "nowhere", other, replaces=False)


def test_a_second_report_replaces_what_the_first_was_made_from_and_kept_runs_replace_nothing(work, tmp_path):
    output = tmp_path / "report"
    write_report(work, output, "graft", num_draws=5)
    change_result(work, "graft/seed1", parameters=54_321)
    copy_kept(output, work, replaces=False)
    assert json.loads((work / "runs/graft/seed1/result.json").read_text())["parameters"] == 54_321
    write_report(work, output, "graft", num_draws=5)
    assert json.loads((output / "runs/graft/seed1/result.json").read_text())["parameters"] == 54_321
    assert not list(output.rglob("*.partial"))


def test_kept_runs_of_another_setup_are_refused(tmp_path):
    setup = dict.fromkeys(("size", "steps", "batch", "seq_length", "learning_rate", "model", "data"), 1)
    (tmp_path / "setup.json").write_text(json.dumps({**setup, "date": "then"}))
    require_same_setup(tmp_path, {**setup, "date": "now"})
    with pytest.raises(DataError, match="was made with steps=1, this experiment has 2"):
        require_same_setup(tmp_path, {**setup, "steps": 2})


def test_times_are_of_the_device_that_did_most_of_the_baseline(work):
    change_result(work, "random/seed2", device="a slow CPU", cpu_seconds=900, bases_per_second=1)
    change_result(work, "graft/seed0", device="a slow CPU", cpu_seconds=900, bases_per_second=1)
    change_result(work, "graft_no_anchors/seed1", device="a slow CPU")
    summary = summarise(read_experiment(work), "graft", num_draws=10)
    assert (summary["device"], summary["equal_time_cpu_seconds"]) == ("a CPU", 100)
    assert (summary["arms"]["graft"]["cpu_seconds"], summary["arms"]["graft"]["timed_seeds"]) == (200, [1, 2])
    lone = summary["arms"]["graft_no_anchors"]
    assert lone["cpu_seconds"] is lone["equal_time"] is None
    row = render_tables(summary).split("## Chunks and cost")[1].split("| graft_no_anchors |")[1].splitlines()[0]
    assert row.split(" | ")[-4:-2] == ["", ""]


def test_a_time_that_is_not_known_is_an_empty_cell(work):
    for run in (work / "runs").glob("*/seed*"):
        curve = json.loads((run / "result.json").read_text())["curve"]
        unknown = {"cpu_seconds": None, "bases_per_second": None}
        change_result(
            work, f"{run.parent.name}/{run.name}", **unknown, curve=[p | {"cpu_seconds": None} for p in curve]
        )
    summary = summarise(read_experiment(work), "graft", num_draws=10)
    assert summary["equal_time_cpu_seconds"] is None
    assert {arm["equal_time"] for arm in summary["arms"].values()} == {None}
    assert summary["arms"]["graft"]["curve"][-1]["cpu_seconds"] is None
    text = render_tables(summary)
    header, _, row = text.split("## Core arms\n\n")[1].splitlines()[:3]
    at_equal_time = header.split(" | ").index("curve bits after equal time")
    assert row.split(" | ")[at_equal_time] == ""
    row = text.split("## Chunks and cost")[1].split("| graft |")[1].splitlines()[0]
    assert row.split(" | ")[-4:-2] == ["", ""]


def test_another_arm_can_be_the_baseline(work, tmp_path):
    main([str(work), "--output", str(tmp_path), "--reference", "graft_no_anchors", "--baseline", "graft"])
    summary = json.loads((tmp_path / "learning.json").read_text())
    assert (summary["baseline"], next(iter(summary["arms"]))) == ("graft", "graft")
    assert set(summary["arms"]["random"]["differences"]) == {"graft", "graft_no_anchors"}
    assert "bits less graft, anchors on" in (tmp_path / "learning.md").read_text()


def test_tables_keep_kinds_apart(work, tmp_path):
    write_report(work, tmp_path / "report", "graft", core=("random", "graft"), num_draws=50)
    text = (tmp_path / "report" / "learning.md").read_text()
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    assert list(sections) == [
        *("Core arms", "One change at a time, against graft", "Validation with the grid's chunks", "Chunks and cost")
    ]
    assert "context counts, 6 bases on each side" in sections["Core arms"]
    assert "graft_no_anchors" not in sections["Core arms"]
    assert "graft_no_anchors" in sections["One change at a time, against graft"]
    assert "75 (1.33)" in sections["Core arms"]
    assert "]*" in sections["One change at a time, against graft"]
    for section in sections.values():
        widths = {line.count("|") for line in section.splitlines() if line.startswith("|")}
        assert len(widths) == 1


def change_result(work: Path, run: str, **changes) -> None:
    path = work / "runs" / run / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_windows(work: Path, run: str, **changes) -> None:
    path = work / "runs" / run / "windows.npz"
    np.savez(path, **{**np.load(path), **{name.replace("__", "/"): array for name, array in changes.items()}})


def test_refuses_runs_with_different_targets(work):
    moved = np.roll(targets("anchors_off"), 1)  # the same sum, on other windows
    change_windows(work, "graft/seed1", anchors_off__targets=moved)
    with pytest.raises(DataError, match=r"graft.seed1.windows\.npz differs from .*'anchors_off/targets'"):
        read_experiment(work)


def test_refuses_different_targets_of_a_view_that_the_baseline_lacks(work):
    change_windows(work, "graft_no_anchors/seed1", anchors_on__targets=np.roll(targets("anchors_on"), 1))
    with pytest.raises(DataError, match=r"graft_no_anchors.seed1.windows\.npz differs from .*'anchors_on/targets'"):
        read_experiment(work)


def test_refuses_other_blocks(work):
    change_windows(work, "graft/seed0", block=BLOCK[::-1])
    with pytest.raises(DataError, match="'block'"):
        read_experiment(work)


def test_refuses_files_of_different_runs(work):
    change_windows(work, "graft/seed0", anchors_off__nats=load(work, "random")[0])
    with pytest.raises(DataError, match=r"graft.seed0.windows\.npz disagrees with result\.json"):
        read_experiment(work)


@pytest.mark.parametrize(
    "name",
    ["runs/graft/seed1/windows.npz", "runs/graft/seed1/result.json", "context.json", "source.json", "setup.json"],
)
def test_names_the_missing_file(work, name):
    (work / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        read_experiment(work)


def test_names_what_is_wrong_in_a_file(work):
    change_result(work, "graft/seed1", seed=7)
    with pytest.raises(DataError, match="not where it lies"):
        read_experiment(work)
    change_result(work, "graft/seed1", seed=1, steps=99)
    with pytest.raises(DataError, match=r"graft.seed1.result\.json has other steps than"):
        read_experiment(work)
    (work / "runs/graft/seed1/result.json").write_text('{"arm": "graft"}')
    with pytest.raises(DataError, match=r"graft.seed1.result\.json lacks seed, description"):
        read_experiment(work)
    (work / "runs/graft/seed1/result.json").write_text("{")
    with pytest.raises(DataError, match=r"graft.seed1.result\.json is no JSON"):
        read_experiment(work)


def test_names_a_missing_array(work):
    path = work / "runs/graft/seed1/windows.npz"
    np.savez(path, **{name: array for name, array in np.load(path).items() if name != "grid/nats"})
    with pytest.raises(DataError, match=r"windows\.npz.*grid/nats"):
        read_experiment(work)


def test_needs_runs_a_baseline_and_a_known_reference(work, tmp_path, capsys):
    with pytest.raises(DataError, match="no run found"):
        read_experiment(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no run of arm 'grafted'; there are random, graft"):
        summarise(read_experiment(work), "grafted")
    with pytest.raises(SystemExit) as stop:
        main([str(work), "--output", str(tmp_path / "report"), "--reference", "grafted"])
    assert stop.value.code == 2
    assert "no run of arm 'grafted'" in capsys.readouterr().err
    (work / "runs" / "random").rename(work / "random")
    with pytest.raises(DataError, match=r"runs.random is missing"):
        read_experiment(work)
