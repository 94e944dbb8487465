"""What verbs write: complete or not there, by one writer, told in one line, and ended by signals without a trace."""

import gzip
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hnet_ntv2.cli.main import main
from hnet_ntv2.embedding import read_embeddings
from hnet_ntv2.tokenization_hnet_ntv2 import HNetNTV2Tokenizer
from tests.builders import lively_model, random_letters

REPOSITORY = Path(__file__).resolve().parents[2]
ROW = " 463 1.3 0.6 1.7 chr1 {begin} {end} (248945) + L1 LINE/L1 1 463 (0) 1\n"
FIRST_LINE = "chr1\t10\t19\tL1|LINE/L1\t463\t+\n"

# A line is written every 50 ms, and the first is told. The name keeps the package from importing torch.
SLOW_REPEATS = """
import sys, time
sys.argv[0] = "hnet-ntv2"
from hnet_ntv2.cli.main import main
from hnet_ntv2.storage import output
write = output._UTF8.write
def write_slowly(lines, text):
    print("writing", flush=True)
    time.sleep(0.05)
    return write(lines, text)
output._UTF8.write = write_slowly
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    lively_model().save_pretrained(folder)
    HNetNTV2Tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path):
    """An empty folder for outputs, beside the inputs."""
    (tmp_path / "rm.out").write_text("".join(ROW.format(begin=11 + 10 * i, end=19 + 10 * i) for i in range(100)))
    (tmp_path / "some.fa").write_text("".join(f">s{i}\n{random_letters(200, i)}\n" for i in range(3)))
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def start(code: str, *arguments: object, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        # Who runs the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options),
    )


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        ("r.bed", signal.SIGTERM, 143),
        ("r.bed", signal.SIGINT, 130),
        ("r.bed", signal.SIGKILL, -signal.SIGKILL),
        ("r.bed.gz", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_stopped_verb_leaves_nothing_that_looks_complete(place, name, number, code):
    target = place / name
    process = start(SLOW_REPEATS, "repeats", place.parent / "rm.out", target)
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "writing\n"
    process.send_signal(number)
    assert process.communicate()[1] == ""
    assert process.returncode == code
    assert os.listdir(place) == ([f"{name}.partial"] if number == signal.SIGKILL else [])
    assert status("repeats", place.parent / "rm.out", target) == 0
    assert os.listdir(place) == [name]
    text = gzip.decompress(target.read_bytes()).decode() if name.endswith(".gz") else target.read_text()
    assert text.startswith(FIRST_LINE)
    assert text.count("\n") == 100


def embed(place: Path, model: Path, fasta: str) -> list[object]:
    options = ["--output", place / "v.npz", "--model", model, "--device", "cpu", "--window", "400"]
    return ["embed", "--fasta", place.parent / fasta, *options, "--batch-bases", "800"]


def test_embed_refuses_an_output_that_another_process_is_writing(place, model, capsys):
    held = "import sys; sys.argv[0] = 'hnet-ntv2'; from hnet_ntv2.storage import appearing_file\n"
    held += "with appearing_file(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    process = start(held, place / "v.npz", stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert status(*embed(place, model, "some.fa")) == 2
    assert f"another process is writing {place / 'v.npz'}" in capsys.readouterr().err
    process.kill()
    process.communicate()
    assert os.listdir(place) == ["v.npz.partial"]
    assert status(*embed(place, model, "some.fa")) == 0
    assert os.listdir(place) == ["v.npz"]
    assert read_embeddings(place / "v.npz").names == ("s0", "s1", "s2")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_embed_leaves_nothing_that_looks_complete(place, model, number):
    (place.parent / "long.fa").write_text(f">long\n{random_letters(1000, 0) * 1000}\n")
    run = "from hnet_ntv2.cli.main import main; import sys; main(sys.argv[1:])"
    process = start(run, *embed(place, model, "long.fa"))
    while not os.listdir(place):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    assert "Traceback" not in process.communicate()[1]
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert all(name.endswith(".partial") for name in os.listdir(place))
    assert status(*embed(place, model, "some.fa")) == 0
    assert os.listdir(place) == ["v.npz"]


@pytest.mark.slow
def test_a_killed_embed_is_resumed_to_the_same_bytes(place, model):
    (place.parent / "many.fa").write_text("".join(f">s{i}\n{random_letters(1000, i)}\n" for i in range(100)))
    command = embed(place, model, "many.fa")
    assert status(*command) == 0
    whole = (place / "v.npz").read_bytes()
    (place / "v.npz").unlink()
    process = start("from hnet_ntv2.cli.main import main; import sys; main(sys.argv[1:])", *command)
    blocks = place / "v.npz.blocks.partial"
    while not blocks.exists() or blocks.stat().st_size < 5000:  # the settings and a block of 25,600 bases
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (place / "v.npz").exists()
    assert status(*command, "--resume") == 0
    assert (place / "v.npz").read_bytes() == whole
    assert os.listdir(place) == ["v.npz"]


def test_a_second_signal_does_not_stop_the_cleaning_up(place):
    slow_removal = SLOW_REPEATS.replace(
        "main(sys", "import shutil; rmtree = shutil.rmtree\n"
        "def remove_slowly(*paths, **options):\n    print('removing', flush=True)\n    time.sleep(0.3)\n"
        "    rmtree(*paths, **options)\nshutil.rmtree = remove_slowly\nmain(sys",
    )  # fmt: skip
    process = start(slow_removal, "repeats", place.parent / "rm.out", place / "r.bed")
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGTERM)
    while process.stdout.readline() != "removing\n":
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert os.listdir(place) == []


@pytest.mark.parametrize("target", ["-", "/dev/stdout", "r.bed"])
def test_a_reader_that_has_enough_ends_a_verb_quietly(place, target):
    code = "import sys; sys.argv[0] = 'hnet-ntv2'; from hnet_ntv2.cli.main import main; main(sys.argv[1:])"
    reading, writing = os.pipe()
    os.close(reading)
    process = start(code, "repeats", "../rm.out", target, cwd=place, stdout=writing)
    os.close(writing)
    assert process.communicate()[1] == ""
    assert process.returncode == 141
    assert os.listdir(place) == (["r.bed"] if target == "r.bed" else [])


def test_standard_output_has_the_result_and_nothing_else(place, capfd):
    assert status("repeats", place.parent / "rm.out", "-") == 0
    told = capfd.readouterr()
    assert told.out.startswith(FIRST_LINE)
    assert told.out.count("\n") == 100
    assert told.err == "100 repeats written to -\n"


def test_embeddings_go_through_a_pipe_and_a_link(place, model):
    os.mkfifo(place / "pipe.npz")
    (place / "link.npz").symlink_to("real.npz")
    got = place / "got.npz"
    reader = threading.Thread(target=lambda: got.write_bytes((place / "pipe.npz").read_bytes()))
    reader.start()
    for name in ("pipe.npz", "link.npz"):
        arguments = ("--fasta", place.parent / "some.fa", "--output", place / name, "--model", model, "--device", "cpu")
        assert status("embed", *arguments) == 0
    reader.join(10)
    assert (place / "pipe.npz").is_fifo()
    assert (place / "link.npz").is_symlink()
    assert got.read_bytes() == (place / "real.npz").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["embed", "--fasta", "some.fa", "--output", "v.npz.gz"], "v.npz.gz: .*leave out .gz"),
        (["embed", "--fasta", "some.fa", "--output", "-"], "-: the suffix says the format"),
        (["embed", "--fasta", "v.npz", "--output", "v.npz"], "--output v.npz would replace what --fasta v.npz reads"),
        (["embed", "--fasta", "some.fa", "--output", "MODEL/model.safetensors", "--model", "MODEL"], "what --model "),
        (["repeats", "rm.out", "rm.out"], "TARGET rm.out would replace what SOURCE rm.out reads"),
        (["repeats", "rm.out", "link"], "TARGET link would replace what SOURCE rm.out reads"),
        (["repeats", "rm.out", "out"], "out is a folder"),
        (["repeats", "rm.out", "rm.out/r.bed"], r"rm.out/r.bed cannot be written: .*/rm\.out is not a folder"),
        (["bench", "--config", "m.yaml", "--output", "m.yaml"], "--output m.yaml would replace what --config"),
        (["init", "--random-trunk", "--save-model", "--output-dir", "rm.out/g"], "--output-dir rm.out/g cannot be"),
        # A folder where a file is expected, and the other way round
        (["repeats", "out", "r.bed"], "error: out "),
        (["embed", "--fasta", "out", "--output", "v.npz"], "error: out "),
        (["embed", "--regions", "rm.out", "--genome", "out", "--output", "v.npz"], "error: out "),
        (["embed", "--fasta", "some.fa", "--model", "some.fa", "--output", "v.npz"], "error: some.fa "),
        (["bench", "--config", "out"], "--config out cannot be read: it is a folder"),
        (["init", "--random-trunk", "--config", "out"], "--config out cannot be read: it is a folder"),
        (["init", "--random-trunk", "--calibration", "out"], "error: out "),
        (["pretrain", "--config-path", "out"], "--config-path out"),
        (["variants", "--vcf", "out", "--output", "s.tsv"], "error: out "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_places_that_cannot_be_are_told_in_one_line(place, model, arguments, problem, monkeypatch, capsys):
    monkeypatch.chdir(place.parent)
    monkeypatch.setenv("HNET_NTV2_CACHE", str(place.parent / "cache"))
    Path("link").symlink_to("rm.out")
    Path("v.npz").write_text("")
    Path("m.yaml").write_text("")
    assert status(*(argument.replace("MODEL", str(model)) for argument in arguments)) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ")
    assert re.search(problem, told), told
    assert Path("v.npz").read_text() == ""
    assert not list(place.iterdir())


def test_an_error_of_the_system_is_one_line_wherever_it_comes_from(place, monkeypatch, capsys):
    def fail(*_):
        raise PermissionError(13, "Permission denied", "/locked/rm.out")

    monkeypatch.setattr("hnet_ntv2.genome.convert_repeatmasker", fail)
    assert status("repeats", "rm.out", place / "r.bed") == 2
    assert capsys.readouterr().err == "error: /locked/rm.out: Permission denied\n"
