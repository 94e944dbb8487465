"""A grafted model trains in phases: frozen means frozen, all is logged, resuming inside any phase is exact."""

import signal
from pathlib import Path

import pytest
import torch

from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.conversion.graft import graft, random_start
from hnet_ntv2.conversion.saving import save_start
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.training.build import build_phases
from hnet_ntv2.training.display import read_history
from hnet_ntv2.training.identity import copy_ledger
from hnet_ntv2.training.run import pretrain
from tests.unit.conversion.sources import any_sequence, write_random_source

from .test_resume import assert_same_weights, signal_in_micro_batch
from .tiny_training import tiny_settings

STEPS, ALIGN, RELEASE = 12, 4, 4
GRAFTED = {"trunk": 0.0, "kmer_embedding": 0.0, "source_head": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("warm")
    source = open_source(str(write_random_source(folder / "source", num_layers=3)))
    settings = {"n_main_layer": 2, "window": 16}
    save_start(graft(source, any_sequence(), settings=settings, layers="first"), folder / "start")
    return folder


def run(folder: Path, name: str, **changes):
    options = {
        "model": {},
        "init": str(folder / "start"),
        "trainer__max_steps": STEPS,
        "callbacks__checkpoint_every": 100,
        "validation__every": 6,
        "warm_start__align": {"steps": ALIGN, "multipliers": GRAFTED, "grid_share": [1.0], "anchor_share": [1.0],
                              "ratio_weight": [0.0], "hidden_state_weight": [1.0]},
        "warm_start__release": {"steps": RELEASE, "grid_share": [1.0, 0.0], "anchor_share": [1.0, 0.0],
                                "ratio_weight": [0.0, 1.0], "hidden_state_weight": [1.0, 0.5]},
        "warm_start__joint": {"multipliers": {"trunk": 0.1}},
        "warm_start__teacher": str(folder / "source"),
        "warm_start__teacher_layer": 1,
    }  # fmt: skip
    return pretrain(tiny_settings(folder, name, **{**options, **changes}))


@pytest.fixture(scope="module")
def uninterrupted(folder):
    return run(folder, "whole")


def test_phases_shares_rates_and_teachers_are_in_the_log(uninterrupted):
    rows = read_history(uninterrupted.history["train"])
    assert [row["phase/number"] for row in rows] == [0] * ALIGN + [1] * RELEASE + [2] * 4
    assert [row["phase/grid_share"] for row in rows[3:9]] == pytest.approx([1, 1, 2 / 3, 1 / 3, 0, 0])
    assert {row["learning_rate/trunk"] for row in rows[:ALIGN]} == {0.0}
    assert all(row["learning_rate/trunk"] > 0 for row in rows[ALIGN:-1])
    assert all(row["stage2/forced_grid"] > 0.5 for row in rows[:ALIGN])
    assert all(row["stage2/forced_grid"] == 0 for row in rows[ALIGN + RELEASE :])
    assert all(row["teacher_hidden_state"] > 0 for row in rows[1:ALIGN])
    assert all(row["teacher_hidden_state"] > 0 for row in rows[ALIGN : ALIGN + RELEASE])


def test_validation_is_reported_with_anchors_without_and_on_the_grid(uninterrupted):
    report = uninterrupted.summary.validation
    assert {"bits_anchors_on", "bits_anchors_off", "bits_on_grid"} <= set(report)
    # The model's own setting, which the checkpoints are chosen by.
    assert report["bits"] == report["bits_anchors_on"] != report["bits_anchors_off"]


def test_frozen_parts_stay_bit_for_bit_while_the_rest_learns(folder):
    aligned = run(folder, "aligned", trainer__max_steps=ALIGN, warm_start__release={}).model.state_dict()
    before = HNetNTV2ForMaskedLM.from_pretrained(folder / "start").state_dict()
    is_frozen = {
        name: name.startswith(("model.embeddings.kmer", "head.source")) or ".layers." in name for name in before
    }
    changed = {name for name in before if not torch.equal(before[name], aligned[name])}
    assert not [name for name in changed if is_frozen[name]]
    assert {"head.residual.output.weight", "model.embeddings.base.weight"} <= changed
    assert any(is_frozen.values())


@pytest.mark.parametrize("step", [2, 6, 10])
def test_resuming_inside_any_phase_is_exact(folder, monkeypatch, uninterrupted, step):
    name = f"stopped{step}"
    with monkeypatch.context() as patch:
        signal_in_micro_batch(patch, 2 * step, signal.SIGTERM)
        stopped = run(folder, name)
    assert stopped.summary.step == step
    assert_same_weights(uninterrupted, run(folder, name, resume="last"))


def test_random_weights_are_trained_in_one_phase(folder):
    result = pretrain(
        tiny_settings(folder, "random", trainer__max_steps=2, warm_start__align={"steps": 2, "grid_share": [1.0]})
    )
    assert {row["phase/number"] for row in read_history(result.history["train"])} == {2.0}
    assert all(row["stage1/forced_grid"] == 0 for row in read_history(result.history["train"]))


def test_a_trained_graft_is_no_fresh_one_but_its_descent_is_known(folder, uninterrupted, caplog):
    trained = folder / "whole" / "checkpoints" / "hf"
    assert (trained / "ntv2_origin.json").read_bytes() == (folder / "start" / "ntv2_graft.json").read_bytes()
    settings = tiny_settings(folder, "further", init=str(trained), model={})
    assert not build_phases(settings).is_warm_start
    assert "trunk, kmer_embedding, source_head learn at" in caplog.text
    assert "optimizer.multipliers.trunk=0.1" in caplog.text
    caplog.clear()
    slow = {**settings.optimizer.multipliers, "trunk": 0.1, "kmer_embedding": 0.1, "source_head": 0.1}
    build_phases(tiny_settings(folder, "further", init=str(trained), model={}, optimizer__multipliers=slow))
    build_phases(tiny_settings(folder, "random"))
    assert not caplog.records


def test_a_model_trained_from_a_random_trunk_is_not_taken_for_a_graft(tmp_path, caplog):
    config = HNetNTV2Config(d_model=32, n_head=2, n_main_layer=1, intermediate_size=48, window=16)
    save_start(random_start(config, any_sequence()), tmp_path / "start")
    (tmp_path / "trained").mkdir()
    copy_ledger(tmp_path / "start", tmp_path / "trained")
    assert (tmp_path / "trained" / "ntv2_origin.json").is_file()
    build_phases(tiny_settings(tmp_path, "further", init=str(tmp_path / "trained"), model={}))
    assert not [record for record in caplog.records if "learn at" in record.message]


def test_teachers_that_would_be_ignored_are_refused(folder, uninterrupted):
    weights = {"warm_start__joint": {"hidden_state_weight": [0.0, 0.5]}}
    never = tiny_settings(folder, "idle", init=str(folder / "start"), model={}, warm_start__when="never", **weights)
    with pytest.raises(ConfigError, match=r"joint\.hidden_state_weight=\[0\.0, 0\.5\] .*warm_start\.when=never"):
        build_phases(never)
    trained = folder / "whole" / "checkpoints" / "hf"
    with pytest.raises(ConfigError, match=r"hf is no fresh graft"):
        build_phases(tiny_settings(folder, "idle", init=str(trained), model={}, **weights))


def test_the_table_of_phases_shows_the_teachers(folder):
    plan = build_phases(
        tiny_settings(folder, "shown", init=str(folder / "start"), model={},
                      warm_start__release={"steps": 3, "hidden_state_weight": [1.0, 0.5]})
    )  # fmt: skip
    head, _, release, _ = plan.table().splitlines()
    assert "hidden_state" in head
    assert "1 to 0.5" in release


def test_teachers_want_the_source_of_the_graft(folder):
    with pytest.raises(ConfigError, match=r"warm_start.teacher=FOLDER must name the source"):
        run(folder, "nobody", warm_start__teacher=None)
    other = write_random_source(folder / "other", num_layers=3, seed=9)
    with pytest.raises(ConfigError, match=r"other is not what .*start was grafted from \(source\)"):
        run(folder, "stranger", warm_start__teacher=str(other))
    with pytest.raises(ConfigError, match=r"teacher_layer=3: the trunk has layers 1..2"):
        run(folder, "deep", warm_start__teacher_layer=3)
