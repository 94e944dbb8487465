"""What an output's name means, and that outputs neither meet each other nor what is read."""

import os
import subprocess
import sys

import pytest

from hnet_ntv2.errors import ConfigError
from hnet_ntv2.storage import check_outputs, is_stream, open_text


def test_outputs_that_meet_are_refused_by_name(tmp_path):
    (tmp_path / "real.bed").write_text("")
    (tmp_path / "link.bed").symlink_to("real.bed")
    (tmp_path / "dangling.bed").symlink_to("new.bed")
    for one, other in (("a.bed", "a.bed"), ("a.bed", "./a.bed"), ("real.bed", "link.bed"), ("dangling.bed", "new.bed")):
        with pytest.raises(ConfigError, match=rf"same name: .*{one} \(--output\) and .*bed \(--stage1\)"):
            check_outputs({"--output": f"{tmp_path}/{one}", "--stage1": f"{tmp_path}/{other}"}, {})
    check_outputs({"--output": tmp_path / "a.bed", "--stage1": tmp_path / "b.bed", "--probability": None}, {})


def test_two_outputs_may_be_thrown_away_but_not_mixed():
    check_outputs({"--output": "/dev/null", "--stage1": "/dev/null"}, {})
    with pytest.raises(ConfigError, match="same name: - "):
        check_outputs({"--output": "-", "--stage1": "/dev/stdout"}, {})
    check_outputs({"--output": "-", "--stage1": "/dev/null"}, {"--fasta": "/dev/stdin"})


def test_an_output_that_would_replace_what_is_read_is_refused(tmp_path):
    fasta, model = tmp_path / "g.fa", tmp_path / "model"
    fasta.write_text(">a\nACGT\n")
    model.mkdir()
    (model / "model.safetensors").write_text("")
    (tmp_path / "link").symlink_to("g.fa")
    read = {"--fasta": fasta, "--model": model, "--regions": None}
    for output, option in (
        (fasta, "--fasta"),
        (tmp_path / "link", "--fasta"),
        (model / "model.safetensors", "--model"),
    ):
        with pytest.raises(ConfigError, match=f"--output {output} would replace what {option} "):
            check_outputs({"--output": output}, read)
    check_outputs({"--output": model / "vectors.npz"}, read)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/null"])
def test_streams_are_told_by_their_names(name):
    assert is_stream(name)


def test_files_and_folders_are_no_streams(tmp_path):
    for path in (tmp_path, tmp_path / "new", "~/nothing-of-this-name"):
        assert not is_stream(path)


def test_what_a_shell_opened_for_appending_is_not_cut(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    code = """
import sys
sys.argv[0] = "hnet-ntv2"
from hnet_ntv2.storage import open_text
for name in ("/dev/stdout", "/dev/stderr"):
    with open_text(name) as file:
        file.write(f"{name}\\n")
"""
    with log.open("a") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, stderr=file, check=True)
        file.write("after\n")
    assert log.read_text() == "before\n/dev/stdout\n/dev/stderr\nafter\n"
    assert os.listdir(tmp_path) == ["log"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_a_full_device_is_told_by_name():
    with (
        pytest.raises(ConfigError, match=r"^/dev/full cannot be written: No space left"),
        open_text("/dev/full") as file,
    ):
        file.write("x")


def test_links_in_a_circle_are_told(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match=f"{tmp_path}/a"), open_text(tmp_path / "a"):
        pass


def test_a_place_that_cannot_be_written_is_told_before_work_starts(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"--output {tmp_path}/file/a/b cannot be written: {tmp_path}/file is not a"):
        check_outputs({"--output": tmp_path / "file" / "a" / "b"}, {})
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ConfigError, match=f"--output {tmp_path}/a/b cannot .*: the folder {tmp_path} is write-protec"):
        check_outputs({"--output": tmp_path / "a" / "b"}, {})
    check_outputs({"--output": "/dev/null"}, {})


def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path, monkeypatch):
    def fail(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "is_dir", fail)
    with pytest.raises(ConfigError, match=f"^{tmp_path}/out cannot be written: Permission denied$"):
        open_text(tmp_path / "out").__enter__()
