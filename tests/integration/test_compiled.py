"""A compiled model computes what the eager one does: loss and gradients, for several chunk counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


def run(backend: str) -> list[dict]:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("compiled_equals_eager.py")), backend],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_compiled_equals_eager_on_three_chunk_counts():
    rows = run("aot_eager")
    assert len({row["chunks"] for row in rows}) == 3
    for row in rows:
        assert row["loss"] < 1e-6
        assert row["gradient"] < 1e-5


@pytest.mark.gpu
@pytest.mark.slow
def test_generated_kernels_equal_eager():
    for row in run("inductor"):
        assert row["loss"] < 1e-5
        assert row["gradient"] < 1e-4
