"""The built package by itself: what ``pip install`` gives to somebody who has no checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hnet_ntv2 import __version__

ROOT = Path(__file__).parents[2]
REGION = "GRCh38_chr20_2097152-8388608:100,001-100,600"
FROM_WHEEL = """
import hnet_ntv2
from hnet_ntv2.cli.experiment import config_folder, load_settings
print(hnet_ntv2.__file__)
print(config_folder())
print(load_settings().trainer.max_steps)
"""

pytestmark = pytest.mark.slow


def run(*command: object, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> dict[str, str]:
    """The environment of a process that finds the wheel's package before the checkout's."""
    site, cache = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("cache")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--target", site, wheel)
    return {**os.environ, "PYTHONPATH": str(site), "HNET_NTV2_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


def test_everything_comes_from_the_wheel(installed, tmp_path):
    package, configs, max_steps = run(sys.executable, "-c", FROM_WHEEL, env=installed, cwd=tmp_path).splitlines()
    site = Path(installed["PYTHONPATH"])
    assert Path(package).is_relative_to(site)
    assert Path(configs).is_relative_to(site)
    assert int(max_steps) == 50_000


def test_the_bundled_model_cuts_bundled_dna_without_a_download(installed, tmp_path):
    command = [sys.executable, "-m", "hnet_ntv2.cli.main", "segment", "--region", REGION, "--output", "chunks.bed"]
    run(*command, "--device", "cpu", env=installed, cwd=tmp_path)
    chunks = [line.split("\t") for line in (tmp_path / "chunks.bed").read_text().splitlines() if line[:1] != "#"]
    starts, ends = [int(chunk[1]) for chunk in chunks], [int(chunk[2]) for chunk in chunks]
    assert (starts[0], ends[-1]) == (100_000, 100_600)
    assert starts[1:] == ends[:-1]


def test_the_wheel_holds_the_package_only(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"hnet_ntv2", f"hnet_ntv2-{__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".bin", ".pt", ".pkl", ".ckpt"))]
    assert wheel.stat().st_size < 20_000_000
