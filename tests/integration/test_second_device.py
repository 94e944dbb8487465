"""Runs the tests of the second device in a process of its own: a backend, once registered, stays in its process."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_everything_that_touches_a_device_runs_on_a_strict_second_one():
    file = Path(__file__).with_name("on_second_device.py")
    # Without conftest.py: shapes are checked in every other test, and checking them here costs more than the tests.
    command = [sys.executable, "-m", "pytest", str(file), "-q", "-p", "no:cacheprovider", "--noconftest"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-2000:]
