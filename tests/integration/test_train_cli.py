"""The pretrain command: its options do what they say, its mistakes are named, signals end it cleanly."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hnet_ntv2.cli import pretrain as command
from hnet_ntv2.cli.main import app
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.training.checkpoint_format import read_structure

from .tiny_training import MODEL, write_genome

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = [f"model.{name}={value}" for name, value in MODEL.items()] + ["batch.micro_batch_size=2", "data.num_workers=1"]


@pytest.fixture
def parsed(monkeypatch):
    """Run the command up to the settings it would train with."""
    found = []
    monkeypatch.setattr(command, "_run", lambda settings, demo: found.append(settings))
    monkeypatch.setattr(command, "_start_logging", lambda: None)

    def run(*arguments: str):
        result = CliRunner().invoke(app, ["pretrain", *arguments], catch_exceptions=False)
        return result, found[-1] if found else None

    return run


def test_every_documented_option_does_what_it_says(parsed, tmp_path):
    fasta, bed = write_genome(tmp_path)
    values = {
        "--experiment-name": ("mine", "experiment_name", "mine"),
        "--output-dir": (str(tmp_path / "out"), "output_dir", str(tmp_path / "out")),
        "--wandb-project": ("p", "logger.wandb_project", "p"),
        "--wandb-entity": ("e", "logger.wandb_entity", "e"),
        "--devices": ("2", "trainer.devices", 2),
        "--num-nodes": ("3", "trainer.num_nodes", 3),
        "--max-steps": ("11", "trainer.max_steps", 11),
        "--batch-size": ("12", "batch.global_size", 12),
        "--learning-rate": ("1e-3", "optimizer.learning_rate", 1e-3),
        "--precision": ("bf16", "trainer.precision", "bf16"),
        "--data": (str(fasta), "data.fasta", str(fasta)),
        "--intervals": (str(bed), "data.intervals", str(bed)),
        "--seq-length": ("2048", "data.seq_length", 2048),
        "--resume": ("some.ckpt", "resume", "some.ckpt"),
        "--init": (str(tmp_path), "init", str(tmp_path)),
    }
    result, settings = parsed(*[word for option, (text, *_) in values.items() for word in (option, text)])
    assert result.exit_code == 0, result.output
    for option, (_, name, expected) in values.items():
        found = settings
        for part in name.split("."):
            found = getattr(found, part)
        assert found == expected, option


@pytest.mark.parametrize("after", [[], ["--max-steps", "5"], ["--", "seed=1"]])
def test_resume_without_a_path_is_the_last_checkpoint(parsed, tmp_path, after):
    fasta, _ = write_genome(tmp_path)
    result, settings = parsed("--data", str(fasta), "--resume", *after)
    assert result.exit_code == 0, result.output
    assert settings.resume == "last"


def test_demo_needs_no_data(parsed):
    _, settings = parsed("--demo", "--", "trainer.max_steps=3")
    assert settings.data.bundled
    assert settings.trainer.max_steps == 3
    assert settings.trainer.precision == "32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-stepz", "3"], "--max-stepz"),
        (["--max-steps", "three"], "--max-steps"),
        (["--max-steps", "0"], "--max-steps"),
        (["--max-steps"], "--max-steps"),
        (["--learning-rate", "fast"], "--learning-rate"),
        (["--learning-rate", "-1"], "--learning-rate"),
        (["--precision", "true,"], "--precision"),
        (["--devices", "2.5"], "--devices"),
        (["--seq-length", "131073"], "--seq-length"),
    ],
)
def test_a_wrong_option_is_named(parsed, arguments, message):
    result, _ = parsed(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_without_data_it_says_what_is_needed_and_where_to_get_it(parsed):
    with pytest.raises(ConfigError, match=r"--data FASTA[\s\S]*hg38[\s\S]*--intervals BED[\s\S]*--demo"):
        parsed()


def test_demo_and_data_exclude_each_other(parsed):
    with pytest.raises(ConfigError, match="leave --data out"):
        parsed("--demo", "--data", "x.fa")


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    fasta, bed = folder / "genome.fa", folder / "intervals.bed"
    if not fasta.exists():
        write_genome(folder)
    command_line = [
        sys.executable,
        "-m",
        "hnet_ntv2.cli.main",
        "pretrain",
        "--data",
        str(fasta),
        "--intervals",
        str(bed),
    ]
    options = ["--output-dir", str(folder / "out"), "--seq-length", "96", "--batch-size", "4", "--max-steps", "2000"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    overrides = ["--", *TINY, f"data.cache_dir={folder / 'cache'}", "validation.windows=4", "callbacks.log_every=1"]
    return subprocess.Popen(
        [*command_line, *options, *arguments, *overrides], env=environment, stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=folder,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_saves_and_exits_with_0(tmp_path, number):
    process = start(tmp_path)
    log = tmp_path / "out" / "logs" / "train.csv"
    deadline = time.monotonic() + 120
    while (
        process.poll() is None
        and time.monotonic() < deadline
        and not (log.exists() and len(log.read_text().splitlines()) > 3)
    ):
        time.sleep(0.2)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert f"Run stopped by {number.name}" in output
    assert "--resume" in output
    step = read_structure(tmp_path / "out" / "checkpoints" / "last.ckpt")["global_step"]
    assert 3 <= step < 2000


@pytest.mark.slow
def test_a_users_mistake_is_one_line_without_a_traceback(tmp_path):
    process = start(tmp_path, "--resume")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "error: --resume: there is no checkpoint in" in output
    assert "Traceback" not in output
