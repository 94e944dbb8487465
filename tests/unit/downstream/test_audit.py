import sys
from dataclasses import replace

import numpy as np
import pytest

from hnet_ntv2.downstream.audit import OVERLAP_KMER, Pretraining, audit_task, overlap_with_pretraining
from hnet_ntv2.errors import ConfigError, DataError
from hnet_ntv2.genome import Interval

from .tasks import planted_task, random_sequences, table, task
from .test_baselines import reverse_complement

ROWS, LENGTH = 60, 80


def random_task(kind="classification", columns=2, test=None):
    """Rows without any signal; ``test`` replaces the first test rows."""
    splits = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        targets = {
            "classification": np.arange(ROWS) % 2,
            "multilabel": random.integers(2, size=(ROWS, columns)).astype(np.float32),
            "regression": random.normal(size=(ROWS, columns)).astype(np.float32),
        }[kind]
        splits.append((random_sequences(ROWS, seed, LENGTH), targets))
    splits[2] = ([*(test or []), *splits[2][0]][:ROWS], splits[2][1])
    return task(*splits, kind=kind, columns=columns)


def findings(audit):
    return {finding.check: finding for finding in audit.findings}


def test_random_rows_have_no_overlap():
    audit = audit_task(random_task())
    found = findings(audit)
    assert found["overlap.exact"].status == found["overlap.near"].status == found["overlap.windows"].status == "pass"
    assert found["overlap.exact"].count == 0
    assert audit.version


def test_copies_of_either_strand_fail_with_count_and_example():
    train = random_sequences(ROWS, 0, LENGTH)
    audit = audit_task(random_task(test=[train[3], reverse_complement(train[4]), train[5].lower(), train[6]]))
    copies = findings(audit)["overlap.exact"]
    assert audit.verdict == "fail"
    assert (copies.status, copies.count) == ("fail", 4)
    assert copies.value == pytest.approx(4 / ROWS)
    assert "test_item test.csv, line 2" in copies.example
    assert "fit_item train.csv, line 5" in copies.example
    assert str(copies).startswith("fail overlap.exact: 4 of 60 test items have an exact or reverse-complement copy")


def test_a_shifted_row_shares_kmers():
    train = random_sequences(ROWS, 0, LENGTH)
    shifted = [row[20:] + other[:20] for row, other in zip(train[:9], train[9:], strict=False)]
    found = findings(audit_task(random_task(test=shifted)))
    assert found["overlap.near"].count >= 9
    assert found["overlap.near"].status == "fail"
    assert found["overlap.exact"].status == "pass"


def test_coordinates_are_used_where_all_splits_have_them():
    data = random_task()
    splits = {}
    for number, name in enumerate(("train", "dev", "test")):
        places = tuple(
            Interval("chr1", 1000 * (3 * row + number), 1000 * (3 * row + number) + 80) for row in range(ROWS)
        )
        if name == "test":
            places = (Interval("1", 40, 120), *places[1:])  # overlaps the first row of train, under its other name
        split = getattr(data, name)
        splits[name] = replace(split, table=replace(split.table, coordinates=places))
    windows = findings(audit_task(replace(data, **splits)))["overlap.windows"]
    assert "1 of 60 test intervals overlap a training/dev interval" in windows.message


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_of_several_labels_the_splits_alone_are_compared(kind):
    train = random_sequences(ROWS, 0, LENGTH)
    audit = audit_task(random_task(kind, test=train[:5]))
    assert findings(audit)["overlap.exact"].count == 5
    assert audit.verdict == "fail"
    assert not any(check.startswith("shortcut") for check in findings(audit))


def test_a_shortcut_of_position_is_found():
    statuses = {name: found.status for name, found in findings(audit_task(planted_task())).items()}
    assert statuses["shortcut.position_motif"] == "fail"


def test_one_column_of_numbers_and_no_dev_are_audited():
    data = replace(random_task("regression", columns=1), dev=None)
    assert findings(audit_task(data))["overlap.exact"].count == 0


def test_without_seqleak_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqleak", None)
    with pytest.raises(ConfigError, match=r'pip install "hnet-ntv2\[evaluate\]"'):
        audit_task(random_task())


def test_what_seqleak_cannot_use_is_an_error_of_the_data():
    data = random_task()
    one_class = {name: replace(getattr(data, name), targets=np.zeros(ROWS, int)) for name in ("train", "dev", "test")}
    with pytest.raises(DataError, match="planted cannot be audited: fewer than two label values"):
        audit_task(replace(data, **one_class))
    with pytest.raises(DataError, match="planted has no test rows"):
        audit_task(replace(data, test=None))


@pytest.fixture
def pretraining(tmp_path, monkeypatch):
    """A genome of two contigs; bases 100 to 400 of the first and all of the second are trained on."""
    monkeypatch.setenv("HNET_NTV2_CACHE", str(tmp_path / "cache"))
    first, second = random_sequences(1, 1, 1000)[0], random_sequences(1, 2, 200)[0]
    genome, intervals = tmp_path / "genome.fa", tmp_path / "intervals.bed"
    genome.write_text(f">chr1\n{first}\n>chr2\n{second}\n")
    intervals.write_text("chr1\t100\t400\ttrain\nchr1\t400\t700\tvalid\nchr1\t700\t1000\ttest\nchr2\t0\t200\ttrain\n")
    return first, second, Pretraining(genome, intervals)


def seen_by_definition(rows, trained):
    """Rows half of whose 31-mers are in a trained sequence or its reverse complement."""
    windows = lambda row: [row[start : start + OVERLAP_KMER] for start in range(len(row) - OVERLAP_KMER + 1)]  # noqa: E731
    known = {kmer for one in trained for kmer in windows(one) + windows(reverse_complement(one))}
    shares = [np.mean([kmer in known for kmer in windows(row)]) if windows(row) else 0 for row in rows]
    return int((np.array(shares) >= 0.5).sum())


def test_overlap_by_kmers_is_that_of_the_definition(pretraining):
    first, second, files = pretraining
    rows = [first[start : start + 80] for start in range(0, 900, 7)]
    rows += [reverse_complement(second[start : start + 80]) for start in range(0, 120, 7)]
    rows += random_sequences(30, 7, 80)
    overlap = overlap_with_pretraining(table(*rows), [files])
    assert overlap.how == "31-mers"
    assert overlap.num_seen == seen_by_definition(rows, [first[100:400], second])
    assert 40 < overlap.num_seen < len(rows) - 40
    assert overlap.share == overlap.num_seen / len(rows)


def test_short_rows_and_n_are_unknown_and_case_does_not_matter(pretraining):
    first, _, files = pretraining
    rows = table(first[150:180], "N" * 50, first[600:680], first[200:280].lower())
    overlap = overlap_with_pretraining(rows, [files])
    assert (overlap.num_rows, overlap.num_seen, overlap.num_unknown) == (4, 1, 2)
    assert overlap.example == "rows.csv, line 5"
    assert overlap_with_pretraining(table("ACGT"), [files]).num_unknown == 1


def test_coordinates_count_under_any_name_and_held_out_intervals_do_not(pretraining):
    _, _, files = pretraining
    places = (Interval("1", 0, 100), Interval("1", 0, 101), Interval("chr1", 399, 500), Interval("chr1", 400, 500),
              Interval("chr2", 5, 9), Interval("chrX", 5, 9))  # fmt: skip
    rows = replace(table(*random_sequences(6, 0, 50)), coordinates=places)
    overlap = overlap_with_pretraining(rows, [Pretraining(None, files.intervals)])
    assert (overlap.how, overlap.num_seen, overlap.example) == ("coordinates", 3, "rows.csv, line 3")


def test_coordinates_of_other_contigs_are_compared_by_kmers(pretraining, tmp_path):
    first, _, files = pretraining
    windows = tmp_path / "windows.bed"
    windows.write_text("window1\t0\t300\ttrain\n")
    genome = tmp_path / "windows.fa"
    other = random_sequences(1, 3, 300)[0]
    genome.write_text(f">window1\n{other}\n")
    rows = table(other[:80], first[:80], first[500:580])
    rows = replace(rows, coordinates=(Interval("chr9", 0, 80), Interval("chr1", 150, 230), Interval("chr1", 500, 580)))
    overlap = overlap_with_pretraining(rows, [files, Pretraining(genome, windows)])
    assert (overlap.how, overlap.num_seen) == ("coordinates and 31-mers", 2)
    with pytest.raises(ConfigError, match=r"have no coordinates in common with .*windows\.bed: give its genome"):
        overlap_with_pretraining(rows, [Pretraining(None, windows)])
