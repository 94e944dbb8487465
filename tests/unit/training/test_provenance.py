"""What a run was is written down, and a different run may not go on from its checkpoint."""

import json
import subprocess
from pathlib import Path

import pytest

from hnet_ntv2.errors import CheckpointError
from hnet_ntv2.training.provenance import check_identity, describe_environment, git_state, write_environment


def test_every_difference_is_named_with_both_values():
    saved = {"seed": 1, "model": {"d_model": 8, "guard": [0.1, 0.6]}, "max_steps": 10}
    current = {"seed": 2, "model": {"d_model": 16, "guard": (0.1, 0.6)}, "max_steps": 10}
    with pytest.raises(CheckpointError, match=r"seed: 1 in the checkpoint, 2 now; model\.d_model: 8 .*, 16 now\. Use"):
        check_identity(saved, current, Path("a.ckpt"), False)


def test_only_the_length_can_be_allowed_to_differ():
    check_identity({"max_steps": 10}, {"max_steps": 20}, Path("a.ckpt"), True)
    with pytest.raises(CheckpointError, match="allow_changed_max_steps"):
        check_identity({"max_steps": 10}, {"max_steps": 20}, Path("a.ckpt"), False)
    with pytest.raises(CheckpointError, match="seed: None in the checkpoint, 3 now"):
        check_identity({"max_steps": 10}, {"max_steps": 20, "seed": 3}, Path("a.ckpt"), True)


def test_the_environment_is_plain_json(tmp_path):
    path = write_environment(tmp_path / "configs", describe_environment({"fasta": "genome.fa"}))
    written = json.loads(path.read_text())
    assert written["data"] == {"fasta": "genome.fa"}
    assert written["packages"]["torch"] != "not installed"


def test_the_commit_of_a_checkout_and_whether_it_was_modified(tmp_path):
    assert git_state(tmp_path)["commit"] is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run(["git", "-C", tmp_path, "add", "file"], check=True)
    subprocess.run(["git", "-C", tmp_path, *identity, "commit", "-qm", "one"], check=True)
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["modified"] is False
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path)["modified"] is True
