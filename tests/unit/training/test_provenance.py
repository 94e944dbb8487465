"""What a run was is written down."""

import json
import subprocess

from hnet_ntv2.training.provenance import describe_environment, git_state, write_environment


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
