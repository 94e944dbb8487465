"""Regions on a command line and in a file: read as samtools reads them, or refused with the right way."""

import pytest

from hnet_ntv2.cli.inference import parse_region, read_regions_file
from hnet_ntv2.errors import ContigNotFound, GenomeError, IntervalError
from hnet_ntv2.genome import Interval, open_genome

NAMES = {"chr20": 5000, "chr2": 10, "HLA-A*01:01:01:01": 40, "seq:1-100": 9, "chr20:1000-1300(+)": 8, "chr2:3-5": 7}


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    (folder / "g.fa").write_text("".join(f">{name}\n{'A' * length}\n" for name, length in NAMES.items()))
    return open_genome(folder / "g.fa", folder / "cache")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chr20:1,001-2,000", Interval("chr20", 1000, 2000)),
        ("chr20:1-1", Interval("chr20", 0, 1)),
        ("20:5000-5000", Interval("chr20", 4999, 5000)),
        ("NC_000020.11:1 - 60", Interval("chr20", 0, 60)),
        ("chr20:100", Interval("chr20", 99, 5000)),
        ("chr20:100-", Interval("chr20", 99, 5000)),
        ("chr20", Interval("chr20", 0, 5000)),
        ("HLA-A*01:01:01:01", Interval("HLA-A*01:01:01:01", 0, 40)),
        ("HLA-A*01:01:01:01:2-3", Interval("HLA-A*01:01:01:01", 1, 3)),
        ("seq:1-100", Interval("seq:1-100", 0, 9)),
        ("chr20:1000-1300(+)", Interval("chr20:1000-1300(+)", 0, 8)),
        ("chr2:3-5", Interval("chr2:3-5", 0, 7)),
        ("2:3-5", Interval("chr2", 2, 5)),
    ],
)
def test_a_region_is_one_based_with_both_ends(genome, text, expected):
    assert parse_region(text, genome) == expected


def test_position_0_is_read_as_1_and_told(genome, capsys):
    assert parse_region("chr20:0-60", genome) == Interval("chr20", 0, 60)
    assert "chr20:0-60: positions are counted from 1, so that 0 is read as 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "error", "problem"),
    [
        ("chr20:1²-9", IntervalError, "'1²-9' is no range; write chr20:1,000,001-1,010,000 .1-based, both ends"),
        ("chr20:", IntervalError, "'' is no range"),
        ("chr20:-5", IntervalError, "'-5' is no range"),
        ("chr20:1-2-3", IntervalError, "no range"),
        ("chr20:1_0-20", IntervalError, "no range"),
        (f"chr20:{'9' * 5000}", IntervalError, r"no range.*"),
        ("chr20:200-100", IntervalError, "ends before it begins; write chr20:100-200"),
        ("chr20:1-5001", IntervalError, "goes past the end of chr20, which is chr20:1-5000"),
        ("chr20:5001-", IntervalError, "goes past the end of chr20"),
        ("chr9:5-10", ContigNotFound, "--region 'chr9:5-10': 'chr9' is not in"),
        ("HLA-A*01:01:01:02", ContigNotFound, "--region 'HLA-A.01:01:01:02': 'HLA-A.01:01:01' is not in"),
        ("\x1b[2Jx", ContigNotFound, r"'\\x1b\[2Jx' is not in"),
    ],
)
def test_what_is_no_region_is_told_with_the_right_way(genome, text, error, problem):
    with pytest.raises(error, match=problem) as caught:
        parse_region(text, genome)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_regions_that_do_not_fit_stop_or_are_counted(genome, tmp_path, capsys):
    path = tmp_path / "r.bed"
    path.write_text("chr2\t5\t5\nchr2\t0\t11\nchr9\t0\t1\nchr2\t0\t10\n")
    with pytest.raises(IntervalError, match="line 1: chr2:5-5: empty"):
        read_regions_file(path, genome, skip_bad=False)
    assert read_regions_file(path, genome, skip_bad=True) == [Interval("chr2", 0, 10)]
    assert f"3 regions skipped, the first because of {path}, line 1: chr2:5-5: empty" in capsys.readouterr().err
    path.write_text("chr2\t5\t5\n")
    with pytest.raises(GenomeError, match="none of its intervals fits the genome"):
        read_regions_file(path, genome, skip_bad=True)
