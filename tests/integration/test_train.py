"""A whole run: it learns, tells, writes what it promises, and its model can be loaded again."""

import json
import math
from pathlib import Path

import pytest
import torch

from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.training.history import read_history
from hnet_ntv2.training.run import pretrain

from .tiny_training import tiny_settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    return pretrain(tiny_settings(folder)), folder / "run"


def test_it_finishes_and_says_so(finished):
    result, folder = finished
    assert result.summary.status == "finished"
    assert result.summary.step == 6
    assert 1.5 < result.summary.validation["bits"] < 2.5
    assert json.loads((folder / "logs" / "summary.json").read_text())["step"] == 6


def test_every_step_is_logged_with_everything_that_was_promised(finished):
    result, _ = finished
    rows = read_history(result.history["train"])
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    promised = ["bits", "accuracy", "loss", "task_loss", "bases_per_second", "memory_rss_mib", "gradient_norm/total"]
    promised += [f"gradient_norm/{group}" for group in ("base", "stage1", "trunk", "source")]
    promised += [f"learning_rate/{group}" for group in ("base", "stage1", "trunk", "source")]
    for stage in ("stage1", "stage2"):
        promised += [
            f"{stage}/{name}" for name in ("ratio", "chunk_length", "forced_mask", "capped", "guarded", "ratio_loss")
        ]
    for row in rows:
        assert set(promised) <= set(row)
    assert {"stage1/router_gradient_task", "stage2/router_gradient_ratio"} <= set(rows[0])
    assert "stage1/router_gradient_task" not in rows[1]
    assert rows[0]["bases"] == 4 * 96


def test_learning_rates_warm_up_and_keep_their_multipliers(finished):
    rows = read_history(finished[0].history["train"])
    for row in rows:
        assert row["learning_rate/base"] / row["learning_rate/trunk"] == pytest.approx(2.45 / 0.95)
    assert rows[-1]["learning_rate/trunk"] == pytest.approx(2e-3 * 0.95 / 6)


def test_validation_reports_both_anchor_settings_and_the_ratios_without_masks(finished):
    rows = read_history(finished[0].history["validation"])
    assert [row["step"] for row in rows] == [3, 6]
    for row in rows:
        assert row["bits"] == row["bits_anchors_off"] != row["bits_anchors_on"]
        assert row["bits_non_repeat"] > 0
        assert 0.15 <= row["mask_free/stage1/ratio"] <= 0.6
        assert row["mask_free/stage1/forced_mask"] == 0 < row["stage1/forced_mask"]
        assert (
            1
            <= row["mask_free/chunk_length_p50"]
            <= row["mask_free/chunk_length_p95"]
            <= row["mask_free/chunk_length_max"]
            <= 12
        )
        assert row["targets"] > 0


def test_checkpoints_and_records(finished):
    result, folder = finished
    checkpoints = folder / "checkpoints"
    assert (checkpoints / "last.ckpt").resolve().name == "step=000006.ckpt"
    assert (checkpoints / "best.ckpt").exists()
    assert not [path for path in folder.rglob("*") if path.suffix in {".pt", ".pkl"}]
    environment = json.loads((folder / "configs" / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert environment["data"]["fingerprint"]["fasta"]
    assert "max_steps: 6" in (folder / "configs" / "config.yaml").read_text()
    assert list((folder / "logs" / "tensorboard").glob("events*"))
    assert {"last", "best", "train log", "valid log", "model", "config"} <= set(result.summary.paths)
    assert all(Path(path).exists() for path in result.summary.paths.values())


def test_the_model_folder_gives_the_trained_model(finished):
    result, folder = finished
    loaded = HNetNTV2ForMaskedLM.from_pretrained(folder / "checkpoints" / "hf").eval()
    assert math.isfinite(result.summary.best_bits)
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
