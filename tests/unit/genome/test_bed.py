"""Interval files: what is read, what is refused, and splits that must not touch."""

import gzip

import pytest

from hnet_ntv2.errors import ContigNotFound, DataError, GenomeError, IntervalError
from hnet_ntv2.genome import (
    Interval,
    SplitInterval,
    check_disjoint,
    default_split,
    read_bed,
    read_split_intervals,
)
from hnet_ntv2.genome.files import MAX_LINE
from tests.builders import piped
from tests.unit.genome.hg38 import HG38_LENGTHS

CONTIGS = {"chr1": 1000, "chr2": 500}


def write(tmp_path, text: str | bytes):
    path = tmp_path / "some.bed"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_four_columns_become_split_intervals(tmp_path):
    text = "# comment\ntrack name=x\nchr1\t0\t100\ttrain\n\n2\t5\t10\tvalidation\r\nchr2 10 20 test\n"
    expected = [
        SplitInterval("chr1", 0, 100, "train"),
        SplitInterval("chr2", 5, 10, "valid"),
        SplitInterval("chr2", 10, 20, "test"),
    ]
    assert read_split_intervals(write(tmp_path, text), CONTIGS) == expected
    assert read_split_intervals(write(tmp_path, gzip.compress(text.encode())), CONTIGS) == expected


def test_without_a_genome_names_stay_as_they_are(tmp_path):
    path = write(tmp_path, "anything\t5\t10\ttest\n")
    assert read_split_intervals(path) == [SplitInterval("anything", 5, 10, "test")]
    assert read_bed(path) == [Interval("anything", 5, 10)]


BROKEN = {
    "empty": ("", GenomeError, "is empty"),
    "only comments": ("# nothing\n", GenomeError, "holds no intervals"),
    "three columns": ("chr1\t0\t10\n", GenomeError, "line 1: 3 columns"),
    "words": ("chr1\tstart\tend\ttrain\n", GenomeError, "line 1.*whole numbers"),
    "fold": ("chr1\t0\t10\ttrain\nchr1\t20\t30\tfold3\n", GenomeError, "line 2: 'fold3'.*Borzoi"),
    "no split": ("chr1\t0\t10\ttrainn\n", GenomeError, "line 1: 'trainn'.*no split"),
    "reversed": ("# c\nchr1\t10\t5\ttrain\n", IntervalError, "line 2: chr1:10-5: reversed"),
    "empty interval": ("chr1\t5\t5\ttrain\n", IntervalError, "line 1: chr1:5-5: empty"),
    "negative": ("chr1\t-1\t5\ttrain\n", IntervalError, "line 1.*negative"),
    "past the end": ("chr2\t400\t501\ttrain\n", IntervalError, "line 1: chr2:400-501 goes past.*500"),
    "unknown contig": ("chr7\t0\t10\ttrain\n", ContigNotFound, "line 1: 'chr7' is not in the genome.*chr1, chr2"),
    "truncated gzip": (gzip.compress(b"chr1\t0\t10\ttrain\n" * 99)[:-9], GenomeError, "truncated"),
    "binary": (b"\xff\xfe\x00", GenomeError, "not text"),
    "underscore": ("chr1\t0\t1_0\ttrain\n", GenomeError, "line 1: start '0' and end '1_0' must be whole"),
    "other digits": ("chr1\t0\t1²\ttrain\n", GenomeError, "line 1.*whole numbers"),
    "endless number": (f"chr1\t0\t{'9' * 5000}\ttrain\n", GenomeError, r"line 1.*9'\.\.\. \(5,000 characters\)"),
    "endless line": (gzip.compress(b"A" * (MAX_LINE + 1)), GenomeError, "line 1 is longer than 16,777,216"),
    "escape sequence": ("\x1b[2Jx\t0\t10\ttrain\n", ContigNotFound, r"line 1: '\\x1b\[2Jx' is not in"),
}


@pytest.mark.parametrize(("text", "error", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_interval_file_is_refused_with_its_line(tmp_path, text, error, problem):
    path = write(tmp_path, text)
    with pytest.raises(error, match=problem) as caught:
        read_split_intervals(path, CONTIGS)
    assert str(path) in str(caught.value)


def test_header_lines_are_told_from_contigs_of_that_name(tmp_path):
    lines = ["browser position chr7:1-20", "browser hide all", "track name=x type=bed", "track", "track1\t0\t1",
             "track\t1\t2", "browser\t2\t3\tname", "browser_4 3 4", "track 4 5"]  # fmt: skip
    found = read_bed(write(tmp_path, "\n".join(lines)))
    assert [(item.contig, item.start) for item in found] == [
        ("track1", 0),
        ("track", 1),
        ("browser", 2),
        ("browser_4", 3),
        ("track", 4),
    ]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfchr1\t0\t5\n", b"chr1\t0\t5\r\n", b"chr1\t0\t5\rchr1\t0\t5\r",
                                     b"chr1\t0\t5\tna\xefve\n"])  # fmt: skip
def test_marks_line_ends_and_encodings_do_not_matter(tmp_path, content):
    assert set(read_bed(write(tmp_path, content), CONTIGS)) == {Interval("chr1", 0, 5)}


def test_regions_come_from_a_pipe(tmp_path):
    with piped(b"chr1\t0\t5\n") as path:
        assert read_bed(path) == [Interval("chr1", 0, 5)]


def test_intervals_that_do_not_fit_are_left_out_on_demand(tmp_path):
    misfits = []
    text = "chr1\t0\t5\nchr1\t7\t7\nchr2\t400\t501\nchr9\t0\t1\nchr1\t9\t8\nchr2\t0\t500\n"
    found = read_bed(write(tmp_path, text), CONTIGS, misfits.append)
    assert found == [Interval("chr1", 0, 5), Interval("chr2", 0, 500)]
    assert [str(error).split(": ")[0][-6:] for error in misfits] == ["line 2", "line 3", "line 4", "line 5"]
    with pytest.raises(GenomeError, match="whole numbers"):
        read_bed(write(tmp_path, "chr1\t0\tx\n"), CONTIGS, misfits.append)
    with pytest.raises(GenomeError, match="none of its intervals fits"):
        read_bed(write(tmp_path, "chr1\t5\t5\n"), CONTIGS, misfits.append)


def test_folds_are_taken_when_they_are_assigned(tmp_path):
    path = write(tmp_path, "chr1\t0\t10\tfold0\nchr1\t20\t30\tfold3\nchr1\t40\t50\tfold4\n")
    splits = [item.split for item in read_split_intervals(path, folds={"fold3": "valid", "fold4": "test"})]
    assert splits == ["train", "valid", "test"]
    with pytest.raises(GenomeError, match="has no fold9; its folds are fold0, fold3, fold4"):
        read_split_intervals(path, folds={"fold9": "valid"})
    with pytest.raises(GenomeError, match="'fold3' is assigned to 'holdout'"):
        read_split_intervals(path, folds={"fold3": "holdout"})
    with pytest.raises(GenomeError, match="'train' in the fourth column is no fold"):
        read_split_intervals(write(tmp_path, "chr1\t0\t10\ttrain\n"), folds={"fold3": "valid"})


@pytest.mark.parametrize("style", [lambda name: name, lambda name: f"chr{name}"], ids=["ensembl", "ucsc"])
def test_the_default_split_takes_whole_chromosomes_and_leaves_copies_out(style):
    contigs = {style(name): length for name, length in HG38_LENGTHS.items()} | {"chr1_KI270706v1_random": 5000}
    names: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for interval in default_split(contigs):
        assert (interval.start, interval.end) == (0, contigs[interval.contig])
        names[interval.split].append(interval.contig)
    assert names["valid"] == [style("21")]
    assert names["test"] == [style("20"), style("22")]
    assert names["train"] == [style(name) for name in [*map(str, range(1, 20)), "X"]]


@pytest.mark.parametrize("contigs", [{"I": 100, "II": 100}, {"chr1": 100, "chr20": 100}, {"chr21": 100}])
def test_a_genome_without_the_default_chromosomes_needs_an_interval_file(contigs):
    with pytest.raises(DataError, match="--intervals"):
        default_split(contigs)


@pytest.mark.parametrize(
    ("rows", "overlapping"),
    [
        ([(0, 10, "train"), (10, 20, "valid"), (20, 30, "test")], None),
        ([(0, 10, "train"), (5, 20, "train")], None),
        ([(0, 10, "train"), (9, 20, "valid")], ("chr1:0-10", "chr1:9-20")),
        ([(0, 100, "train"), (20, 30, "train"), (50, 60, "test")], ("chr1:0-100", "chr1:50-60")),
        ([(50, 60, "test"), (0, 100, "valid")], ("chr1:0-100", "chr1:50-60")),
        ([(5, 6, "test"), (5, 6, "valid")], ("chr1:5-6", "chr1:5-6")),
    ],
)
def test_splits_that_share_a_base_are_refused_by_both_names(rows, overlapping):
    intervals = [SplitInterval("chr1", *row) for row in rows] + [SplitInterval("chr2", 0, 100, "valid")]
    if overlapping is None:
        check_disjoint(intervals)
        return
    with pytest.raises(DataError) as caught:
        check_disjoint(intervals)
    assert all(name in str(caught.value) for name in overlapping)
