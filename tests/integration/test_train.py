"""A whole run: it learns, tells, writes what it promises, and its model can be loaded again."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from hnet_ntv2.errors import CheckpointError, ConfigError, DataError, TrainingStopped
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.training import checkpoint_format
from hnet_ntv2.training.build import build_model
from hnet_ntv2.training.checkpoint_format import read_checkpoint
from hnet_ntv2.training.display import read_history
from hnet_ntv2.training.module import PretrainingModule
from hnet_ntv2.training.run import pretrain

from .tiny_training import MODEL, tiny_settings


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
    promised += [f"gradient_norm/{group}" for group in ("base", "stage1", "trunk", "kmer_embedding", "source_head")]
    promised += [f"learning_rate/{group}" for group in ("base", "stage1", "trunk", "kmer_embedding", "source_head")]
    for stage in ("stage1", "stage2"):
        promised += [
            f"{stage}/{name}" for name in ("ratio", "chunk_length", "forced_mask", "capped", "guarded", "ratio_loss")
        ]
    for row in rows:
        assert set(promised) <= set(row)
    assert {"stage1/router_gradient_task", "stage2/router_gradient_task"} <= set(rows[0])
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
        assert row["bits"] == row["bits_anchors_on"] != row["bits_anchors_off"]
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


def poison_step(monkeypatch, step: int) -> None:
    """Let the targets of one step weigh NaN."""
    original = PretrainingModule.training_step

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == step - 1:
            batch = {**batch, "loss_weights": torch.full_like(batch["loss_weights"], math.nan)}
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PretrainingModule, "training_step", training_step)


def test_a_loss_that_becomes_nan_stops_the_run_with_the_weights_of_the_step_before(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        poison_step(patch, 3)
        with pytest.raises(TrainingStopped, match=r"stopped at step 3: the loss became nan.*step=000003\.ckpt"):
            pretrain(tiny_settings(tmp_path))
    state = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert math.isnan(read_history(tmp_path / "run" / "logs" / "train.csv")[-1]["loss"])
    assert pretrain(tiny_settings(tmp_path, resume="last")).summary.is_finished


def test_a_collapsed_ratio_stops_the_run(tmp_path):
    settings = tiny_settings(tmp_path, model={**MODEL, "target_ratio_stage1": 0.03, "guard_stage1": [0.0, 1.0]})
    settings = dataclasses.replace(settings, callbacks=dataclasses.replace(settings.callbacks, collapse_patience=2))
    with pytest.raises(TrainingStopped, match=r"step 2: the chunk ratio of stage 1 has collapsed.*for 2 steps"):
        pretrain(settings)
    assert (tmp_path / "run" / "checkpoints" / "step=000002.ckpt").is_dir()


def test_a_model_folder_can_be_the_start(finished, tmp_path):
    result, folder = finished
    settings = tiny_settings(tmp_path, init=str(folder / "checkpoints" / "hf"), model={"d_model": 32})
    started = build_model(settings)
    assert torch.equal(started.head.residual.output.weight, result.model.head.residual.output.weight)
    assert started.training
    with pytest.raises(ConfigError, match=r"model\.n_main_layer=3, but the model in --init .* has 1"):
        build_model(tiny_settings(tmp_path, init=str(folder / "checkpoints" / "hf"), model={"n_main_layer": 3}))


def test_the_config_tells_the_length_of_the_training_windows(finished, tmp_path):
    _, folder = finished
    hf = folder / "checkpoints" / "hf"
    assert json.loads((hf / "config.json").read_text())["training_length"] == 96
    assert HNetNTV2ForMaskedLM.from_pretrained(hf).model.config.training_length == 96
    on_longer = build_model(tiny_settings(tmp_path, init=str(hf), data__seq_length=192))
    assert on_longer.config.training_length == on_longer.model.config.training_length == 192


def test_the_seed_decides_the_weights(tmp_path):
    first, again, other = (build_model(tiny_settings(tmp_path, seed=seed)).state_dict() for seed in (1, 1, 2))
    name = "head.residual.output.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_what_cannot_work_is_refused_before_it_starts(tmp_path):
    with pytest.raises(DataError, match="--data FASTA"):
        pretrain(tiny_settings(tmp_path, data__fasta=None))
    with pytest.raises(DataError, match=r"--intervals .*nowhere\.bed: there is no such file"):
        pretrain(tiny_settings(tmp_path, data__intervals=str(tmp_path / "nowhere.bed")))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--output-dir .*file/run cannot be written"):
        pretrain(tiny_settings(tmp_path, "file/run"))
    with pytest.raises(ConfigError, match="is not a multiple of 3"):
        pretrain(tiny_settings(tmp_path, "batch", batch__micro_batch_size=3))


def test_a_disk_that_fills_up_while_saving_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    original = checkpoint_format.save_file

    def save_file(tensors, path):
        if "step=000004" in str(path):
            raise OSError(28, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(checkpoint_format, "save_file", save_file)
    with pytest.raises(CheckpointError, match=r"step=000004\.ckpt could not be saved.*No space left"):
        pretrain(tiny_settings(tmp_path, callbacks__checkpoint_every=2))
    checkpoints = tmp_path / "run" / "checkpoints"
    assert read_checkpoint(checkpoints / "last.ckpt")["global_step"] == 2
    assert not [path for path in checkpoints.iterdir() if path.suffix == ".tmp"]
