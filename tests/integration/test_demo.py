"""The script end to end: the demo prints its whole summary, and the command's errors come through with their status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TINY_MODEL = ("d_model=32", "n_head=2", "intermediate_size=64", "n_main_layer=1", "kmer_size=4", "window=16")
TINY_RUN = ("data.seq_length=256", "batch.global_size=2", "validation.windows=128", "validation.every=2")
TINY = [*(f"model.{setting}" for setting in TINY_MODEL), *TINY_RUN]


def run_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HNET_NTV2_", "PYTEST_"))}
    variables = {
        "HNET_NTV2_PYTHON": sys.executable,
        "HNET_NTV2_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(REPOSITORY),
    }
    script = REPOSITORY / "scripts" / "run_pretrain_hnet_ntv2.sh"
    return subprocess.run([script, *arguments], cwd=folder, env=kept | variables, capture_output=True, text=True)


@pytest.mark.slow
def test_demo_ends_in_a_summary(tmp_path):
    result = run_script(tmp_path, "--demo", "--output-dir", "a run", "--max-steps", "2", "--", *TINY)
    assert result.returncode == 0, result.stderr
    for wanted in (
        "uniform guessing                             2.000",
        "base composition",
        "context counts, 2 bases on each side",
        "context counts, 6 bases on each side",
        "HNet-NTv2, ",
        "stage 1, per base                   0.300",
        "stage 2, per stage-1 chunk          0.500",
        "Validation window GRCh38_chr20",
        "a run/curves.png",
        "a run/checkpoints/hf",
    ):
        assert wanted in result.stdout, result.stdout
    bits = json.loads((tmp_path / "a run" / "summary.json").read_text())["bits"]
    uniform, composition, near, wide, model = bits.values()
    assert wide < near < composition < uniform, "more context costs less on real DNA"
    assert 1 < model < 4
    assert (tmp_path / "a run" / "curves.png").stat().st_size > 10_000
    for folder in ("checkpoints", "logs", "configs"):
        assert any((tmp_path / "a run" / folder).iterdir())
    for warning in ("Traceback", "Warning"):
        assert warning not in result.stderr, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nothing.fa"], "nothing.fa: there is no such file"),
        (["--demo", "--data", "hg38.fa"], "leave --data out"),
        (["--demo", "--", "trainer.max_steps=many"], "trainer.max_steps='many'"),
        (["--demo", "--", "trainer.max_step=3"], "max_step"),
        (["--demo", "--batch-size", "7", "--", "batch.micro_batch_size=2"], "7"),
        (["--config-path", "mine.yaml"], "mine.yaml cannot be read: there is no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_of_the_command_come_through(arguments, message, tmp_path):
    result = run_script(tmp_path, *arguments)
    assert result.returncode == 2, result.stderr
    assert "error: " in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
