"""A run that was stopped and resumed ends with the very weights of one that was not."""

import dataclasses
import signal
from pathlib import Path

import pytest
import torch

from hnet_ntv2.errors import CheckpointError, ConfigError
from hnet_ntv2.training.checkpoint_format import TENSOR_FILE, read_checkpoint, write_checkpoint
from hnet_ntv2.training.display import read_history
from hnet_ntv2.training.module import PretrainingModule
from hnet_ntv2.training.run import pretrain

from .tiny_training import tiny_settings

STEPS = 20
OPTIONS = {"trainer__max_steps": STEPS, "validation__every": 7, "callbacks__checkpoint_every": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def uninterrupted(folder):
    return pretrain(tiny_settings(folder, "whole", **OPTIONS))


def signal_in_micro_batch(monkeypatch, number: int, signum: signal.Signals) -> None:
    """Send a signal to this process while micro-batch ``number`` (from 1) is being trained on."""
    original, seen = PretrainingModule.training_step, []

    def training_step(self, batch, batch_idx):
        seen.append(batch_idx)
        if len(seen) == number:
            signal.raise_signal(signum)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PretrainingModule, "training_step", training_step)


def stop_and_resume(folder, monkeypatch, name, micro_batch, signum=signal.SIGTERM, **on_resume):
    settings = tiny_settings(folder, name, **OPTIONS)
    with monkeypatch.context() as patch:
        signal_in_micro_batch(patch, micro_batch, signum)
        stopped = pretrain(settings)
    resumed = pretrain(tiny_settings(folder, name, **OPTIONS, resume="last", **on_resume))
    return stopped, resumed


def assert_same_weights(left, right):
    for name, tensor in left.model.state_dict().items():
        assert torch.equal(tensor, right.model.state_dict()[name]), name


def comparable_history(result, part: str) -> list[dict[str, float]]:
    """Rows of a history without what depends on the clock."""
    rows = read_history(result.history[part])
    return [{name: row[name] for name in row if "second" not in name and "memory" not in name} for row in rows]


# Two micro-batches make a step: 20 is the last one of step 10, 19 the first one, inside the accumulation.
@pytest.mark.parametrize(
    ("micro_batch", "signum"), [(19, signal.SIGINT), pytest.param(20, signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_the_weights_are_those_of_an_uninterrupted_run(folder, monkeypatch, uninterrupted, micro_batch, signum):
    stopped, resumed = stop_and_resume(folder, monkeypatch, f"stopped{micro_batch}", micro_batch, signum)
    assert stopped.summary.status == f"stopped by {signum.name}"
    assert stopped.summary.step == 10
    assert (resumed.summary.status, resumed.summary.step) == ("finished", STEPS)
    assert_same_weights(uninterrupted, resumed)
    assert resumed.summary.validation == uninterrupted.summary.validation
    for part in ("train", "validation"):
        assert comparable_history(resumed, part) == comparable_history(uninterrupted, part)


@pytest.mark.slow
def test_another_number_of_workers_changes_nothing(folder, monkeypatch, uninterrupted):
    _, resumed = stop_and_resume(folder, monkeypatch, "workers", 17, data__num_workers=2)
    assert_same_weights(uninterrupted, resumed)


@pytest.mark.slow
def test_another_micro_batch_continues_on_the_same_windows(folder, monkeypatch, uninterrupted):
    _, resumed = stop_and_resume(folder, monkeypatch, "micro", 20, batch__micro_batch_size=4)
    for name, tensor in resumed.model.state_dict().items():
        assert torch.allclose(tensor, uninterrupted.model.state_dict()[name], atol=2e-4), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer__max_steps": 30}, r"max_steps: 20 in the checkpoint, 30 now.*allow_changed_max_steps=true"),
        ({"batch__global_size": 8}, r"batch\.global_size: 4 in the checkpoint, 8 now"),
        ({"data__seq_length": 90}, r"seq_length: 96 in the checkpoint, 90 now"),
        ({"seed": 6}, r"seed: 5 in the checkpoint, 6 now"),
        ({"data__max_n_share": 0.25}, r"data\.max_n_share: 0\.5 in the checkpoint, 0\.25 now"),
        ({"model__n_main_layer": 2}, r"model.n_main_layer: 1 in the checkpoint, 2 now"),
        ({"optimizer__learning_rate": 1e-3}, r"optimizer.learning_rate: 0.002 in the checkpoint, 0.001 now"),
        ({"data__intervals": None}, r"data.intervals: "),
    ],
)
def test_a_run_that_is_set_up_differently_is_refused(folder, uninterrupted, change, message):
    if "data__intervals" in change:
        other = folder / "other.bed"
        other.write_text("chr1\t0\t11000\ttrain\nchr2\t0\t2000\tvalid\n")
        change = {"data__intervals": str(other)}
    with pytest.raises(CheckpointError, match=message):
        pretrain(tiny_settings(folder, "whole", **{**OPTIONS, **change}, resume="last"))


@pytest.mark.slow
def test_another_length_can_be_allowed(folder, monkeypatch):
    options = {**OPTIONS, "trainer__max_steps": 4}
    pretrain(tiny_settings(folder, "longer", **options))
    options["trainer__max_steps"] = 5
    longer = pretrain(tiny_settings(folder, "longer", **options, resume="last", allow_changed_max_steps=True))
    assert longer.summary.step == 5


def test_a_missing_checkpoint_is_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*nothing"):
        pretrain(tiny_settings(folder, "nothing", resume="last"))
    with pytest.raises(CheckpointError, match=r"elsewhere\.ckpt"):
        pretrain(tiny_settings(folder, "nothing", resume=str(tmp_path / "elsewhere.ckpt")))


def test_a_truncated_checkpoint_is_refused_before_training(folder, monkeypatch):
    with monkeypatch.context() as patch:
        signal_in_micro_batch(patch, 2, signal.SIGTERM)
        pretrain(tiny_settings(folder, "truncated", **OPTIONS))
    path = folder / "truncated" / "checkpoints" / "step=000001.ckpt" / TENSOR_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"last\.ckpt is truncated"):
        pretrain(tiny_settings(folder, "truncated", **OPTIONS, resume="last"))


def test_the_routers_offsets_are_part_of_the_checkpoint(folder, uninterrupted):
    state = read_checkpoint(folder / "whole" / "checkpoints" / "last.ckpt")["state_dict"]
    offsets = [float(value) for name, value in state.items() if name.endswith("router.beta")]
    assert offsets == [float(router.beta) for router in uninterrupted.model.model.routers]


def test_an_earlier_run_is_not_overwritten_by_accident(folder, uninterrupted):
    with pytest.raises(ConfigError, match=r"--resume goes on with it.*overwrite=true"):
        pretrain(tiny_settings(folder, "whole", **OPTIONS))
    assert (folder / "whole" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
def test_an_earlier_run_can_be_overwritten_and_comes_out_the_same(folder, uninterrupted):
    settings = tiny_settings(folder, "whole", **OPTIONS)
    again = pretrain(dataclasses.replace(settings, overwrite=True))
    assert_same_weights(uninterrupted, again)


def test_a_checkpoint_with_other_tensors_is_told_in_one_line(folder, uninterrupted, tmp_path):
    tree = read_checkpoint(folder / "whole" / "checkpoints" / "last.ckpt")
    del tree["state_dict"]["model.head.residual.output.weight"]
    write_checkpoint(tree, tmp_path / "other.ckpt")
    with pytest.raises(
        CheckpointError, match=r"other\.ckpt is of another version.*head\.residual\.output\.weight"
    ) as told:
        pretrain(tiny_settings(folder, "other", **OPTIONS, resume=str(tmp_path / "other.ckpt")))
    assert "\n" not in str(told.value)
