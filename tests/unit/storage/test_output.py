"""Outputs appear whole or not at all, have one writer, and never replace what is no regular file."""

import errno
import gzip
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from hnet_ntv2.errors import ConfigError
from hnet_ntv2.storage import appearing_file, appearing_folder, folder_lock, growing_file, open_text, sweep

# The command's name keeps the package from importing torch, which takes seconds.
_HOLD = """
import sys
sys.argv[0] = "hnet-ntv2"
from hnet_ntv2.storage import {name}
with {name}({arguments}) as where:
    print("ready", flush=True)
    sys.stdin.read()
"""


def _holder(name: str, arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD.format(name=name, arguments=arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _end(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.communicate()


@pytest.mark.parametrize("open_output", [open_text, appearing_file, lambda path: growing_file(path, resume=False)])
def test_a_file_appears_when_its_writer_is_done(tmp_path, open_output):
    path = tmp_path / "made" / "out.tsv"
    with open_output(path) as output:
        assert not path.exists()
        if isinstance(output, Path):
            output.write_text("all\n")
        else:
            output.write("all\n" if open_output is open_text else b"all\n")
    assert path.read_text() == "all\n"
    assert os.listdir(path.parent) == ["out.tsv"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _fail_after(write: Callable[[], object]) -> None:
    write()
    raise ZeroDivisionError


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_after_an_error_the_old_file_stays_and_nothing_else(tmp_path):
    path = tmp_path / "out.tsv"
    path.write_text("old\n")
    with pytest.raises(ZeroDivisionError), open_text(path) as file:
        _fail_after(lambda: file.write("half"))
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["out.tsv"]


def test_a_growing_file_keeps_what_was_written(tmp_path):
    path = tmp_path / "out.tsv"
    with pytest.raises(ZeroDivisionError), growing_file(path, resume=False) as file:
        _fail_after(lambda: file.write(b"one\n"))
    assert not path.exists()
    with growing_file(path, resume=True) as file:
        assert file.read() == b"one\n"
        file.write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    assert os.listdir(tmp_path) == ["out.tsv"]


@pytest.mark.parametrize("resumable", [True, False])
def test_gz_is_bgzip(tmp_path, resumable):
    path = tmp_path / "out.bed.gz"
    text = "chr1\t0\t9\n" * 20000
    if resumable:
        with growing_file(path, resume=False) as binary:
            binary.write(text.encode())
    else:
        with open_text(path) as file:
            file.write(text)
    content = path.read_bytes()
    assert content[12:14] == b"BC"  # the extra field of bgzip's blocks
    assert content.endswith(bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000"))
    assert gzip.decompress(content).decode() == text
    assert os.listdir(tmp_path) == ["out.bed.gz"]


@pytest.mark.parametrize(
    ("name", "rest"), [("appearing_file", ""), ("growing_file", ", True"), ("appearing_folder", ""), ("open_text", "")]
)
def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path, name, rest):
    path = tmp_path / "out"
    process = _holder(name, f"{str(path)!r}{rest}")
    same = {"appearing_file": appearing_file, "appearing_folder": appearing_folder, "open_text": open_text}
    open_again = same.get(name, lambda path: growing_file(path, resume=True))
    try:
        with pytest.raises(ConfigError, match="another process is writing"), open_again(path):
            pass
    finally:
        _end(process)
    assert not path.exists()
    assert os.listdir(tmp_path) == ["out.partial"]  # what a killed writer leaves does not look complete
    with open_again(path) as output:
        if isinstance(output, Path):
            (output / "file" if output.is_dir() else output).write_text("x")
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_has_one_holder(tmp_path):
    process = _holder("folder_lock", f"__import__('pathlib').Path({str(tmp_path)!r})")
    with pytest.raises(ConfigError, match="another process is writing"), folder_lock(tmp_path):
        pass
    _end(process)
    with folder_lock(tmp_path):
        assert os.listdir(tmp_path) == []


def test_forked_children_of_a_killed_holder_do_not_keep_its_lock(tmp_path):
    """Loader processes see only after seconds that their parent was killed; until then nobody could resume."""
    code = f"""
import os, pathlib, sys, time
sys.argv[0] = "hnet-ntv2"
from hnet_ntv2.storage import folder_lock
with folder_lock(pathlib.Path({str(tmp_path)!r})):
    if os.fork() == 0:
        print(os.getpid(), flush=True)  # by the child: on a busy machine the parent can be killed before it runs
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(ConfigError, match="another process is writing"), folder_lock(tmp_path):
            pass
        process.kill()
        process.wait()
        os.kill(child, 0)  # it is still there
        with folder_lock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_what_killed_writers_left_is_swept(tmp_path):
    left = ["a.partial", "a.partial.compressing", "b.partial/file", "new.partial/new.replaced/old"]
    for name in (*left, "new/file", "gone.partial/gone.replaced/old"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link.partial").symlink_to("new")
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["gone", "new"]
    assert (tmp_path / "gone" / "old").exists()
    assert (tmp_path / "new" / "file").exists()


def test_a_folder_replaces_the_old_one_only_when_complete(tmp_path):
    path = tmp_path / "hf"
    with appearing_folder(path) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), appearing_folder(path) as folder:
        _fail_after(lambda: (folder / "a").write_text("half"))
    assert (path / "a").read_text() == "old"
    with appearing_folder(path) as folder:
        assert list(folder.iterdir()) == []
        (folder / "b").write_text("new")
    assert os.listdir(path) == ["b"]
    assert os.listdir(tmp_path) == ["hf"]


def test_a_folder_killed_between_its_two_renames_comes_back(tmp_path):
    path = tmp_path / "hf"
    with appearing_folder(path) as folder:
        (folder / "a").write_text("old")
    (tmp_path / "hf.partial" / "hf").mkdir(parents=True)
    path.rename(tmp_path / "hf.partial" / "hf.replaced")
    with pytest.raises(ZeroDivisionError), appearing_folder(path):
        raise ZeroDivisionError
    assert (path / "a").read_text() == "old"


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").write_text("old")
    link = tmp_path / "link"
    link.symlink_to("real")
    with open_text(link) as file:
        file.write("new")
    assert link.is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("name", ["pipe.bed", "pipe.bed.gz"])
@pytest.mark.parametrize("kind", ["text", "file", "growing"])
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path, kind, name):
    """``.gz`` is compressed, but for what was written in place: that may be compressed already."""
    pipe = tmp_path / name
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    if kind == "text":
        with open_text(pipe) as file:
            file.write("all")
    elif kind == "file":
        with appearing_file(pipe) as path:
            path.write_text("all")
    else:
        with growing_file(pipe, resume=False) as binary:
            binary.write(b"all")
    reader.join(10)
    is_packed = name.endswith(".gz") and kind != "file"
    assert [gzip.decompress(data) if is_packed else data for data in got] == [b"all"]
    assert pipe.is_fifo()


def test_a_stream_cannot_be_resumed():
    with pytest.raises(ConfigError, match="cannot be resumed"), growing_file("/dev/null", resume=True):
        pass


def test_standard_output(capfdbinary):
    with open_text("-") as file:
        file.write("to the terminal\n")
    assert capfdbinary.readouterr().out == b"to the terminal\n"


def test_errors_name_the_place(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "out", tmp_path):
        with pytest.raises(ConfigError, match=str(path)), open_text(path):
            pass


def test_a_full_disk_is_told_in_one_line(tmp_path):
    """A limit on the size of files stands for the full disk."""
    code = f"""
import resource, signal, sys
sys.argv[0] = "hnet-ntv2"
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from hnet_ntv2.storage import open_text
from hnet_ntv2.errors import ConfigError
try:
    with open_text({str(tmp_path / "out")!r}) as file:
        for _ in range(10000):
            file.write("a line\\n")
except ConfigError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == f"{tmp_path / 'out'} cannot be written: File too large\n"
    assert os.listdir(tmp_path) == []


def test_what_a_killed_writer_of_another_kind_left_is_taken_over(tmp_path):
    path = tmp_path / "out.bed"
    with pytest.raises(ZeroDivisionError), growing_file(path, resume=False) as binary:
        _fail_after(lambda: binary.write(b"half"))
    assert (tmp_path / "out.bed.partial").is_file()
    with open_text(path) as file:
        file.write("whole\n")
    assert path.read_text() == "whole\n"
    (tmp_path / "out.bed.partial").mkdir()
    (tmp_path / "out.bed.partial" / "out.bed").write_text("half")
    with growing_file(path, resume=True) as binary:
        assert binary.read() == b""
        binary.write(b"new\n")
    assert path.read_text() == "new\n"
    assert os.listdir(tmp_path) == ["out.bed"]


def test_a_job_stopped_while_it_compresses_has_lost_nothing(tmp_path, monkeypatch):
    path = tmp_path / "out.tsv.gz"
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", lambda source, sink: _fail_after(lambda: sink.write(b"o")))
        with pytest.raises(ZeroDivisionError), growing_file(path, resume=False) as binary:
            binary.write(b"one\n")
    assert os.listdir(tmp_path) == ["out.tsv.gz.partial"]
    with growing_file(path, resume=True) as binary:
        assert binary.read() == b"one\n"
    assert gzip.decompress(path.read_bytes()) == b"one\n"
    assert os.listdir(tmp_path) == ["out.tsv.gz"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_others_may_read_what_the_umask_lets_them(tmp_path, mask):
    """safetensors keeps its files from other users."""
    before = os.umask(mask)
    try:
        with appearing_file(tmp_path / "file") as path:
            path.touch(0o600)
        with appearing_folder(tmp_path / "folder") as folder:
            (folder / "within").mkdir()
            (folder / "within" / "file").touch(0o600)
    finally:
        os.umask(before)
    for file in (tmp_path / "file", tmp_path / "folder" / "within" / "file"):
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_full_disk_under_safetensors_is_told_in_one_line(tmp_path):
    def fail(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28) at path x")

    with (
        pytest.raises(ConfigError, match=f"^{tmp_path}/out cannot be written: No space left on device$"),
        appearing_file(tmp_path / "out"),
    ):
        fail()
    assert os.listdir(tmp_path) == []


def test_an_error_of_another_file_is_not_told_as_one_of_the_output(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"out\.fa"), open_text(tmp_path / "out"):
        (tmp_path / "out.fa").read_text()


def test_a_write_protected_file_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "out").write_text("precious")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with pytest.raises(ConfigError, match="write-protected"), open_text(tmp_path / "out"):
        pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with open_text(tmp_path / "out") as file:
        file.write("x")
    assert (tmp_path / "out").read_text() == "x"
    assert f"{tmp_path / 'out'} cannot be locked (No locks available)" in caplog.text
