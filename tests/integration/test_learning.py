"""The learning experiment end to end at its smallest size, on the bundled human DNA."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning.arms import ARMS, run_settings
from benchmarks.learning.dna import join_dna
from benchmarks.learning.evaluate import kmer_counts, repetitive_share
from benchmarks.learning.setup import SIZES
from hnet_ntv2.errors import DataError
from hnet_ntv2.training.phases import PhasePlan
from hnet_ntv2.training.settings import PretrainSettings, build_settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ARMS)
def test_the_settings_of_every_arm_are_settings_of_a_run(name, tmp_path):
    paths = {part: tmp_path / part for part in ("fasta", "intervals", "cache", "source", "start", "output")}
    settings = build_settings(PretrainSettings, run_settings(ARMS[name], SIZES["hour"], 1, **paths), name)
    plan = PhasePlan.of(settings.warm_start, settings.trainer.max_steps, settings.optimizer.multipliers)
    assert sum(plan.steps) == SIZES["hour"].steps
    expected = {"half_rate": 0.5, "full_rate": 0.95}.get(name, 0.1 if ARMS[name].parts else 0.95)
    assert settings.optimizer.multipliers["trunk"] == expected


def test_dna_files_are_joined_once_and_missing_ones_are_named(tmp_path):
    for name, text in (
        ("a.fa", ">a\nACGT"),
        ("b.fa", ">b\nTTTT\n"),
        ("a.bed", "a\t0\t4\ttrain"),
        ("b.bed", "b\t0\t4\tvalid"),
    ):
        (tmp_path / name).write_text(text)
    dna = join_dna([tmp_path / "a.fa", tmp_path / "b.fa"], [tmp_path / "a.bed", tmp_path / "b.bed"], tmp_path / "work")
    assert dna.fasta.read_text().split() == [">a", "ACGT", ">b", "TTTT"]
    assert dna.intervals.read_text().split("\n")[:2] == ["a\t0\t4\ttrain", "b\t0\t4\tvalid"]
    with pytest.raises(DataError, match=r"no such file: .*c\.fa"):
        join_dna([tmp_path / "c.fa"], [tmp_path / "a.bed"], tmp_path / "work")
    with pytest.raises(DataError, match="both --fasta and --intervals"):
        join_dna([tmp_path / "a.fa"], [], tmp_path / "work")


def test_windows_of_a_repeated_sequence_on_either_strand_are_repeat_rich():
    generator = np.random.default_rng(0)
    training = generator.integers(7, 11, (60, 300)).astype(np.uint8)
    repeat = generator.integers(7, 11, 200).astype(np.uint8)
    training[::2, 50:250] = repeat
    windows = generator.integers(7, 11, (3, 300)).astype(np.uint8)
    windows[1, 80:280] = repeat
    windows[2, 80:280] = (17 - repeat)[::-1]
    share = repetitive_share(windows, kmer_counts(training))
    assert share[0] < 0.05
    assert share[1] == pytest.approx(189 / 289, abs=0.02)
    assert share[2] == pytest.approx(share[1], abs=0.02)


@pytest.mark.slow
def test_two_arms_the_source_and_their_report(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    work, report = tmp_path / "work", tmp_path / "report"
    command = [sys.executable, "-m", "benchmarks.learning", str(work), "--size", "minutes"]
    subprocess.run([*command, "--only", "random,release,source"], env=environment, check=True, cwd=tmp_path)
    command = [sys.executable, "-m", "benchmarks.learning.report", str(work), "--output", str(report)]
    subprocess.run([*command, "--reference", "release"], env=environment, check=True, cwd=tmp_path)
    summary = json.loads((report / "learning.json").read_text())
    assert set(summary["arms"]) == {"random", "release"}
    [source] = summary["grid_references"]
    # The graft starts as its source: on the grid, before training, they are the same; after 24 steps nearly so.
    assert summary["arms"]["release"]["views"]["grid"]["all"]["bits"] == pytest.approx(source["bits"], abs=0.2)
    for arm in summary["arms"].values():
        assert 1.5 < arm["views"]["anchors_off"]["all"]["bits"] < 2.3
        assert len(arm["curve"]) == 1 + SIZES["minutes"].curve_points
        assert 0 < arm["cpu_seconds"] < arm["wall_seconds"]
