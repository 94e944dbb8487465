"""The genome cache under trouble from outside: several builders at once, a killed build, a disk that refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hnet_ntv2.genome import Interval, open_genome

# The program's name keeps the package from importing transformers, which these processes do not need.
START = """
import json, resource, sys, time
sys.argv = ["hnet-ntv2"]
from hnet_ntv2.errors import GenomeError
from hnet_ntv2.genome import Interval, open_genome
"""
OPEN_AND_TELL = """
calls = []
genome = open_genome({source!r}, {cache!r}, lambda *state: (calls.append(state), time.sleep(0.05)))
print(json.dumps([len(calls), int(genome.read(Interval("chr1", 0, 3_000_000)).sum())]))
"""
HANG_WHILE_BUILDING = """
def hang(done, total):
    print("building", flush=True)
    time.sleep(60)
open_genome({source!r}, {cache!r}, hang)
"""
OPEN_WITH_LITTLE_DISK = """
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    open_genome({source!r}, {cache!r})
except GenomeError as error:
    print(error)
"""


@pytest.fixture
def source(tmp_path) -> Path:
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)[np.random.default_rng(0).integers(0, 4, 9_000_000)]
    path = tmp_path / "genome.fa"
    path.write_bytes(b">chr1\n" + letters.tobytes() + b"\n")
    return path


def start(script: str, source: Path, cache: Path) -> subprocess.Popen[str]:
    code = START + script.format(source=str(source), cache=str(cache))
    repository = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, text=True)


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_of_several_processes_at_once_one_builds_and_all_read_the_same(source, tmp_path):
    cache = tmp_path / "cache"
    processes = [start(OPEN_AND_TELL, source, cache) for _ in range(3)]
    told = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len({checksum for _, checksum in told}) == 1
    assert sorted(calls > 0 for calls, _ in told) == [False, False, True]
    assert len(folders(cache)) == 1


def test_a_killed_build_is_never_taken_for_a_cache_and_is_cleaned_up(source, tmp_path):
    cache = tmp_path / "cache"
    process = start(HANG_WHILE_BUILDING, source, cache)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.kill()
    process.wait(timeout=10)
    process.stdout.close()
    (leftover,) = folders(cache)
    assert "partial" in leftover.name
    assert (leftover / "genome.u8").exists()

    genome = open_genome(source, cache)
    assert not leftover.exists()
    assert len(folders(cache)) == 1
    assert len(genome.read(Interval("chr1", 0, 9_000_000))) == 9_000_000


def test_a_disk_that_takes_no_more_is_told_and_left_clean(source, tmp_path):
    cache = tmp_path / "cache"
    process = start(OPEN_WITH_LITTLE_DISK, source, cache)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert f"the genome cache in {cache} cannot be written: File too large" in output
    assert folders(cache) == []
