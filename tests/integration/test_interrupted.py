"""Wherever a run is stopped or killed, resuming it leaves what the uninterrupted run leaves."""

import dataclasses
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from hnet_ntv2.errors import CheckpointError, ConfigError, DataError, TrainingStopped
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.storage import folder_lock
from hnet_ntv2.training import run
from hnet_ntv2.training.checkpoint_format import read_structure
from hnet_ntv2.training.checkpoints import CheckpointKeeper
from hnet_ntv2.training.display import read_history
from hnet_ntv2.training.module import PretrainingModule
from hnet_ntv2.training.run import pretrain

from .test_resume import assert_same_weights, comparable_history, signal_in_micro_batch
from .tiny_training import tiny_settings

STEPS = 6
# Each validation falls on a checkpoint, as by default; two micro-batches make a step.
OPTIONS = {"trainer__max_steps": STEPS, "validation__every": 3, "callbacks__checkpoint_every": 3}


class Killed(BaseException):
    """Stands for SIGKILL, which no code here catches."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("interrupted")


@pytest.fixture(scope="module")
def whole(folder):
    return pretrain(tiny_settings(folder, "whole", **OPTIONS))


def kill_when(monkeypatch, owner, name: str, condition) -> None:
    """Raise Killed instead of calling ``owner.name`` where ``condition(*arguments)`` holds."""
    original = getattr(owner, name)

    def killed(*arguments, **options):
        if condition(*arguments, **options):
            raise Killed
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, killed)


def at_step(step: int):
    return lambda module, *rest: module.trainer.global_step == step


def linking(name: str, step: int):
    return lambda keeper, trainer, link, path: link == name and trainer.global_step == step


PHASES = {
    "before the first validation": (PretrainingModule, "on_validation_epoch_start", at_step(3)),
    "in a validation": (PretrainingModule, "on_validation_epoch_end", at_step(3)),
    "between a validation and its link": (CheckpointKeeper, "_link", linking("best.ckpt", 3)),
    "between a checkpoint and its link": (CheckpointKeeper, "_link", linking("last.ckpt", 6)),
    "after the last checkpoint": (PretrainingModule, "on_validation_epoch_start", at_step(6)),
    "between the last validation and its link": (CheckpointKeeper, "_prune", at_step(6)),
    "before the export": (run, "export_model", lambda *arguments: True),
    "before the summary": (run, "_write_summary", lambda *arguments: True),
}
FAST = ("between a validation and its link", "after the last checkpoint")


@pytest.mark.parametrize(
    "phase", [pytest.param(each, marks=[] if each in FAST else [pytest.mark.slow]) for each in PHASES]
)
def test_a_killed_run_can_be_completed(folder, monkeypatch, whole, phase):
    name = phase.replace(" ", "_")
    owner, function, condition = PHASES[phase]
    if function == "_prune":
        condition = lambda keeper, trainer: keeper.best_step == trainer.global_step == 6  # noqa: E731
    with monkeypatch.context() as patch:
        kill_when(patch, owner, function, condition)
        with pytest.raises(Killed):
            pretrain(tiny_settings(folder, name, **OPTIONS))
    assert_same_run(whole, pretrain(tiny_settings(folder, name, **OPTIONS, resume="last")), folder, name)


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), STEPS])
def test_a_run_that_was_told_to_stop_where_a_validation_is_due_can_be_completed(folder, monkeypatch, whole, step):
    name = f"stopped_{step}"
    with monkeypatch.context() as patch:
        signal_in_micro_batch(patch, 2 * step, signal.SIGTERM)
        stopped = pretrain(tiny_settings(folder, name, **OPTIONS))
    assert (stopped.summary.status, stopped.summary.step) == ("stopped by SIGTERM", step)
    assert not (folder / name / "checkpoints" / "hf").exists()
    assert_same_run(whole, pretrain(tiny_settings(folder, name, **OPTIONS, resume="last")), folder, name)


def assert_same_run(whole, resumed, folder: Path, name: str) -> None:
    assert_same_weights(whole, resumed)
    exported = HNetNTV2ForMaskedLM.from_pretrained(folder / name / "checkpoints" / "hf")
    assert all(torch.equal(tensor, whole.model.state_dict()[key]) for key, tensor in exported.state_dict().items())
    for part in ("train", "validation"):
        assert comparable_history(resumed, part) == comparable_history(whole, part), part
    assert comparable_summary(resumed) == comparable_summary(whole)
    for link in ("last.ckpt", "best.ckpt"):
        assert os.readlink(folder / name / "checkpoints" / link) == os.readlink(folder / "whole" / "checkpoints" / link)
    assert not [path for path in (folder / name).rglob("*") if path.suffix in {".partial", ".replaced", ".tmp"}]


def comparable_summary(result) -> dict:
    summary = dataclasses.asdict(result.summary)
    train = {key: value for key, value in summary["train"].items() if "second" not in key and "memory" not in key}
    names = sorted(summary["paths"])
    return {**summary, "train": train, "paths": names, "seconds": None, "bases_per_second": None}


def test_a_finished_run_can_be_resumed_again_and_keeps_its_model_meanwhile(folder, monkeypatch, whole):
    settings = tiny_settings(folder, "whole", **OPTIONS, resume="last")
    model = folder / "whole" / "checkpoints" / "hf" / "model.safetensors"
    before, seen = model.read_bytes(), []
    original = HNetNTV2ForMaskedLM.save_pretrained

    def save_pretrained(self, where):
        seen.append(model.read_bytes() == before)
        original(self, where)

    monkeypatch.setattr(HNetNTV2ForMaskedLM, "save_pretrained", save_pretrained)
    again = pretrain(settings)
    assert seen == [True]
    assert_same_run(whole, again, folder, "whole")


@pytest.mark.slow
def test_going_back_to_an_older_checkpoint_leaves_nothing_of_the_course_that_was_given_up(folder):
    """The best checkpoint is not the folder of the same step that the first course saved."""
    options = {**OPTIONS, "callbacks__keep_checkpoints": 9}
    pretrain(tiny_settings(folder, "back", **options))
    checkpoints = folder / "back" / "checkpoints"
    options |= {"trainer__max_steps": 4, "allow_changed_max_steps": True, "validation__every": 1}
    shorter = pretrain(tiny_settings(folder, "back", **options, resume=str(checkpoints / "step=000003.ckpt")))
    assert sorted(path.name for path in checkpoints.glob("step=*")) == ["step=000003.ckpt", "step=000004.ckpt"]
    assert os.readlink(checkpoints / "last.ckpt") == "step=000004.ckpt"
    best = read_structure(checkpoints / "best.ckpt")["run"]
    assert best["trainer.max_steps"] == (4 if os.readlink(checkpoints / "best.ckpt") == "step=000004.ckpt" else STEPS)
    rows = read_history(shorter.history["validation"])
    assert [row["step"] for row in rows] == [3, 4]
    assert shorter.summary.best_bits == min(row["bits"] for row in rows)


@pytest.mark.slow
def test_a_finished_run_can_be_given_another_folder(folder, whole):
    last = folder / "whole" / "checkpoints" / "last.ckpt"
    moved = pretrain(tiny_settings(folder, "moved", **OPTIONS, resume=str(last)))
    assert_same_weights(whole, moved)
    checkpoints = folder / "moved" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "best.ckpt",
        "hf",
        "last.ckpt",
        f"step={STEPS:06d}.ckpt",
    ]
    assert [row["step"] for row in read_history(moved.history["validation"])] == [STEPS]
    assert moved.summary.best_bits == moved.summary.validation["bits"]


def test_a_second_training_in_the_same_folder_is_refused_at_once(folder, whole):
    with folder_lock(folder / "whole"), pytest.raises(ConfigError, match=r"another process is writing .*whole"):
        pretrain(tiny_settings(folder, "whole", **OPTIONS, resume="last"))


def test_a_folder_that_holds_another_run_is_not_gone_on_with(folder, whole, tmp_path):
    """Neither may a checkpoint of elsewhere be mixed into it."""
    other = folder / "whole" / "checkpoints" / "last.ckpt"
    tiny_settings(tmp_path)  # its genome
    held = tmp_path / "held" / "checkpoints" / "step=000001.ckpt"
    held.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"held.checkpoints holds the checkpoints of an earlier run"):
        pretrain(tiny_settings(tmp_path, "held", **OPTIONS, resume=str(other)))
    assert held.is_dir()


def test_overwriting_deletes_nothing_before_the_new_run_is_built(folder, whole):
    hf = folder / "whole" / "checkpoints" / "hf"
    before = {path: path.stat().st_mtime_ns for path in (folder / "whole").rglob("*") if path.is_file()}
    mistakes = {
        "data__seq_length": 13_000,  # longer than any interval
        "batch__micro_batch_size": 3,
        "init": str(hf),  # would be deleted
    }
    for name, value in mistakes.items():
        with pytest.raises((ConfigError, DataError)):
            pretrain(tiny_settings(folder, "whole", **{**OPTIONS, name: value}, overwrite=True))
    assert {path: path.stat().st_mtime_ns for path in (folder / "whole").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_an_overwritten_run_leaves_nothing_that_looks_like_the_new_ones_end(folder, monkeypatch):
    pretrain(tiny_settings(folder, "over", **OPTIONS))
    with monkeypatch.context() as patch:
        kill_when(patch, PretrainingModule, "on_validation_epoch_start", at_step(3))
        with pytest.raises(Killed):
            pretrain(tiny_settings(folder, "over", **OPTIONS, seed=9, overwrite=True))
    checkpoints = folder / "over" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["last.ckpt", "step=000003.ckpt"]
    assert not (folder / "over" / "logs" / "summary.json").exists()
    assert len(list((folder / "over" / "logs" / "tensorboard").glob("events*"))) == 1


def test_what_killed_saves_left_is_swept_and_an_old_folder_comes_back(folder, monkeypatch, whole):
    with monkeypatch.context() as patch:
        kill_when(patch, PretrainingModule, "training_step", at_step(4))
        with pytest.raises(Killed):
            pretrain(tiny_settings(folder, "swept", **OPTIONS))
    checkpoints = folder / "swept" / "checkpoints"
    for leftover in ("step=000006.ckpt.partial", ".step=000006.ckpt.0a1b2c3d.tmp", ".hf.12.tmp", "hf.partial"):
        (checkpoints / leftover).mkdir()
        (checkpoints / leftover / "tensors.safetensors").write_bytes(b"half")
    (checkpoints / "last.ckpt.partial").symlink_to("step=000003.ckpt")
    (checkpoints / "step=000003.ckpt.partial").mkdir()
    (checkpoints / "step=000003.ckpt").rename(checkpoints / "step=000003.ckpt.partial" / "step=000003.ckpt.replaced")
    resumed = pretrain(tiny_settings(folder, "swept", **OPTIONS, resume="last"))
    assert_same_run(whole, resumed, folder, "swept")


def test_a_loader_that_is_missed_inside_an_accumulation_costs_no_finished_step(folder, monkeypatch, whole):
    """Micro-batch 10 is the second one of step 5; the first one is lost, and repeated."""
    original, seen = PretrainingModule.training_step, []

    def training_step(self, batch, batch_idx):
        seen.append(batch_idx)
        if len(seen) == 10:
            raise RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainingModule, "training_step", training_step)
        with pytest.raises(
            TrainingStopped, match=r"exited unexpectedly\); the state is in .*step=000004\.ckpt, --resume"
        ):
            pretrain(tiny_settings(folder, "missed", **OPTIONS))
    assert_same_run(whole, pretrain(tiny_settings(folder, "missed", **OPTIONS, resume="last")), folder, "missed")


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [9, 10])
def test_a_killed_loader_costs_no_finished_step(folder, monkeypatch, whole, micro_batch):
    original, seen = PretrainingModule.training_step, []

    def training_step(self, batch, batch_idx):
        seen.append(batch_idx)
        if len(seen) == micro_batch:
            for child in multiprocessing.active_children():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
        return original(self, batch, batch_idx)

    name, options = f"loader_{micro_batch}", {**OPTIONS, "data__num_workers": 1}
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingModule, "training_step", training_step)
        with pytest.raises(TrainingStopped, match=r"killed by signal: Killed\); the state is in .*--resume goes on"):
            pretrain(tiny_settings(folder, name, **options))
    assert read_structure(folder / name / "checkpoints" / "last.ckpt")["global_step"] in (4, 5)
    assert_same_run(whole, pretrain(tiny_settings(folder, name, **OPTIONS, resume="last")), folder, name)


@pytest.mark.slow
def test_a_model_that_cannot_be_exported_is_told_and_exported_by_a_resume(folder, monkeypatch, whole):
    def full(self, where):
        (Path(where) / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(HNetNTV2ForMaskedLM, "save_pretrained", full)
        with pytest.raises(CheckpointError, match=r"hf could not be saved: No space left on device\. .*--resume"):
            pretrain(tiny_settings(folder, "export", **OPTIONS))
    assert not (folder / "export" / "checkpoints" / "hf").exists()
    assert_same_run(whole, pretrain(tiny_settings(folder, "export", **OPTIONS, resume="last")), folder, "export")
