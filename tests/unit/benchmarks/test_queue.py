"""The command that runs the learning experiment: what it refuses before any work, and the order of its runs."""

import itertools
from pathlib import Path

import pytest

from benchmarks import learning
from benchmarks.learning.__main__ import main, parse_run, queue
from benchmarks.learning.arms import CHUNKERS, CORE, ONE_AT_A_TIME
from benchmarks.learning.dna import Dna
from benchmarks.learning.run import OTHERS, Workplace
from benchmarks.learning.setup import SIZES
from hnet_ntv2.errors import ConfigError, DataError


@pytest.mark.parametrize("text", ["random", "random:", "random:first", "random:-1", ":1", "nothing:1"])
def test_a_run_that_is_no_arm_and_seed_is_refused_by_name(text: str):
    with pytest.raises(ConfigError, match=text.partition(":")[0] or "''"):
        parse_run(text)


def test_a_run_is_an_arm_and_a_seed():
    assert parse_run("ratio_0.01:12") == ("ratio_0.01", 12)


@pytest.mark.parametrize("option", [("--only", "random,grafted"), ("--run", "grafted:1")])
def test_an_unknown_arm_ends_the_command_before_it_writes(option, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    work = tmp_path / "work"
    with pytest.raises(SystemExit) as stop:
        main([str(work), *option])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "'grafted'" in error
    assert "anchors_kept" in error
    assert not work.exists()


def test_core_arms_run_with_every_seed_and_before_the_others():
    setup = SIZES["hour"]
    runs = queue(setup)
    core = {arm.name for arm in CORE}
    assert runs[: len(core) * len(setup.seeds)] == [(arm.name, seed) for seed in setup.seeds for arm in CORE]
    assert {name for name, _ in runs} == core | set(OTHERS) | {arm.name for arm in (*ONE_AT_A_TIME, *CHUNKERS)}
    assert len(runs) == len(set(runs))


def test_a_source_that_is_told_of_but_absent_is_not_taken_for_done(tmp_path: Path):
    (tmp_path / "source.json").write_text("{}")
    place = Workplace(tmp_path, Dna(tmp_path / "dna.fa", tmp_path / "dna.bed"), SIZES["minutes"])
    with pytest.raises(DataError, match=r"source\.json tells of a source, but .*source does not hold it"):
        place.ensure_source()


def test_the_published_intervals_are_disjoint_and_split_as_stated():
    lines = (Path(learning.__file__).parent / "intervals_hg38.bed").read_text().splitlines()
    rows = sorted((chrom, int(start), int(end), split) for chrom, start, end, split in map(str.split, lines))
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(rows))
    assert {end - start for _, start, end, _ in rows} == {131_072}
    assert {split: sum(row[3] == split for row in rows) for split in ("train", "valid", "test")} == {
        **{"train": 143, "valid": 23, "test": 33}
    }
