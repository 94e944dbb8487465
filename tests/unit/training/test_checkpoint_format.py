"""Checkpoints come back bit for bit, are replaced atomically, and are refused when truncated, altered or foreign."""

import errno
import json
import math
import resource
import struct
from pathlib import Path

import pytest
import torch

from hnet_ntv2.errors import CheckpointError
from hnet_ntv2.training import checkpoint_format
from hnet_ntv2.training.checkpoint_format import (
    STRUCTURE_FILE,
    TENSOR_FILE,
    SafetensorsCheckpointIO,
    read_checkpoint,
    read_structure,
    write_checkpoint,
)


def same(left, right) -> bool:
    if isinstance(left, torch.Tensor):
        return (
            left.dtype == right.dtype
            and left.shape == right.shape
            and left.numpy().tobytes() == right.numpy().tobytes()
        )
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return isinstance(right, float) and struct.pack("<d", left) == struct.pack("<d", right)
    return type(left) is type(right) and left == right


@pytest.fixture
def tree() -> dict:
    generator = torch.Generator().manual_seed(7)
    return {
        "state_dict": {
            "weight": torch.randn(5, 3, generator=generator),
            "count": torch.tensor(3),
            "none": torch.zeros(0, 4),
        },
        "optimizer_states": [
            {"state": {0: {"step": torch.tensor(2.0)}, 12: {"step": torch.tensor(4.0)}}, "betas": (0.9, 0.95)}
        ],
        "odd": {"1": 1, 1: "one", "$tensor": "not one", "list": [None, True, False, -7, "Ä"], "tuple": ((), (1,))},
        "floats": [0.1, -0.0, 1e-300, 2 / 3, math.nan, math.inf, -math.inf, 5e-324],
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "half": torch.randn(4, generator=generator).to(torch.bfloat16).view(torch.int16),
    }


def test_a_checkpoint_comes_back_bit_for_bit(tree, tmp_path):
    write_checkpoint(tree, tmp_path / "a.ckpt")
    assert same(read_checkpoint(tmp_path / "a.ckpt"), tree)
    assert sorted(path.name for path in (tmp_path / "a.ckpt").iterdir()) == [STRUCTURE_FILE, TENSOR_FILE]
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_tied_views_and_strided_tensors(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tied = torch.randn(3, generator=torch.Generator().manual_seed(0))
    views = {"row": base[1], "column": base[:, 2], "all": base, "flat": base.view(-1)}
    write_checkpoint({"a": tied, "b": [tied], **views}, tmp_path / "a.ckpt")
    loaded = read_checkpoint(tmp_path / "a.ckpt")
    assert loaded["a"] is loaded["b"][0]
    assert torch.equal(loaded["a"], tied)
    for name, view in views.items():
        assert torch.equal(loaded[name], view), name


def test_the_structure_can_be_read_without_the_tensors(tree, tmp_path):
    write_checkpoint(tree, tmp_path / "a.ckpt")
    (tmp_path / "a.ckpt" / TENSOR_FILE).unlink()
    structure = read_structure(tmp_path / "a.ckpt")
    assert structure["optimizer_states"][0]["betas"] == (0.9, 0.95)
    assert structure["state_dict"]["weight"] == "state_dict.weight"


def test_what_only_a_pickle_could_store_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"callbacks\.mine is a pathlib"):
        write_checkpoint({"callbacks": {"mine": Path("x")}}, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [STRUCTURE_FILE, TENSOR_FILE])
def test_a_truncated_checkpoint_is_refused_by_name(tree, tmp_path, name):
    path = tmp_path / "step=000010.ckpt"
    write_checkpoint(tree, path)
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) - 9])
    with pytest.raises(CheckpointError, match=r"step=000010\.ckpt is truncated"):
        read_checkpoint(path)


def test_an_altered_checkpoint_is_refused(tree, tmp_path):
    path = tmp_path / "a.ckpt"
    write_checkpoint(tree, path)
    content = bytearray((path / TENSOR_FILE).read_bytes())
    content[-3] ^= 1
    (path / TENSOR_FILE).write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)
    write_checkpoint(tree, path)
    text = (path / STRUCTURE_FILE).read_text()
    (path / STRUCTURE_FILE).write_text(text.replace("0.95", "0.94"))
    with pytest.raises(CheckpointError, match="changed after it was written"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    path = tmp_path / "step=000010.ckpt"
    write_checkpoint({"state_dict": {"model.w": torch.tensor([0.0, value])}}, path)
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors: 1 values of 'state_dict\.model\.w' are NaN"):
        read_checkpoint(path)
    write_checkpoint({"state_dict": {"steps": torch.tensor([3])}, "other": torch.tensor([value])}, path)
    assert read_checkpoint(path)["state_dict"]["steps"] == 3


def test_a_foreign_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        read_checkpoint(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "pickle.ckpt")
    with pytest.raises(CheckpointError, match=r"pickle\.ckpt is not a checkpoint of this package"):
        read_checkpoint(tmp_path / "pickle.ckpt")
    for document, message in [
        ({}, "not written by this package"),
        ({"format": checkpoint_format.FORMAT, "version": 99}, "99"),
    ]:
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / STRUCTURE_FILE).write_text(json.dumps(document))
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / "other")


def test_saving_over_a_checkpoint_replaces_it(tmp_path):
    for value in (1, 2):
        write_checkpoint({"value": value, "t": torch.full((2,), value)}, tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt")["value"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_save_killed_between_its_two_renames_loses_nothing(tmp_path):
    write_checkpoint({"value": 1}, tmp_path / "a.ckpt")
    (tmp_path / "a.ckpt.partial").mkdir()
    (tmp_path / "a.ckpt").rename(tmp_path / "a.ckpt.partial" / "a.ckpt.replaced")
    assert read_checkpoint(tmp_path / "a.ckpt") == {"value": 1}


def test_a_full_disk_leaves_the_old_checkpoint_and_no_rubbish(tmp_path):
    path = tmp_path / "a.ckpt"
    write_checkpoint({"value": 1, "t": torch.zeros(10)}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"a\.ckpt could not be saved.*free disk space"):
            write_checkpoint({"value": 2, "t": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]
    assert read_checkpoint(path)["value"] == 1


def test_a_full_disk_at_the_last_moment(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    write_checkpoint({"value": 1}, path)

    def full(self, target):
        if self.parent.name.endswith(".partial") and not self.name.endswith(".replaced"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_checkpoint({"value": 2}, path)
    assert read_checkpoint(path) == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]


def test_lightnings_interface_saves_loads_and_removes(tmp_path):
    io = SafetensorsCheckpointIO()
    io.save_checkpoint({"global_step": 3}, tmp_path / "a.ckpt")
    (tmp_path / "last.ckpt").symlink_to("a.ckpt")
    assert io.load_checkpoint(tmp_path / "last.ckpt") == {"global_step": 3}
    io.remove_checkpoint(tmp_path / "last.ckpt")
    assert (tmp_path / "a.ckpt").is_dir()
    io.remove_checkpoint(tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []
