"""Splits: dev is drawn from train in one way, and rows that stand in two splits are counted."""

import numpy as np
import pytest

from hnet_ntv2.errors import ConfigError
from hnet_ntv2.genome import encode
from hnet_ntv2.tasks import Table, check_splits, load_tables
from hnet_ntv2.tasks.splits import draw_parts, make_task
from tests.builders import random_letters


def table(*sequences: str, labels=None, source: str = "train.csv") -> Table:
    return Table(
        source=source,
        names=tuple(map(str, range(len(sequences)))),
        bases=tuple(encode(sequence.encode()) for sequence in sequences),
        labels=tuple(labels or "01"[i % 2] for i in range(len(sequences)))
        if not isinstance(labels, list)
        else (*labels,),
        places=tuple(f"{source}, line {number}" for number in range(2, len(sequences) + 2)),
    )


def many(count: int, seed: int = 0) -> list[str]:
    return [random_letters(20, seed * 1000 + number) for number in range(count)]


def test_parts_are_stratified_and_follow_the_seed():
    train = table(*many(200))
    targets = np.array([0] * 150 + [1] * 50)
    parts = draw_parts(train, targets, seed=1)
    assert [np.bincount(targets[parts == part]).tolist() for part in range(10)] == [[15, 5]] * 10
    assert np.array_equal(parts, draw_parts(train, targets, seed=1))
    assert not np.array_equal(parts, draw_parts(train, targets, seed=2))


def test_copies_stay_in_one_part():
    sequences = many(30)
    reverse = [s[::-1].translate(str.maketrans("ACGT", "TGCA")) for s in sequences]
    parts = draw_parts(table(*sequences, *sequences, *reverse), np.zeros((90, 1), dtype=np.float32), seed=0)
    assert np.array_equal(parts[:30], parts[30:60])
    assert np.array_equal(parts[:30], parts[60:])
    assert sorted(np.bincount(parts)) == [9] * 10


def test_dev_comes_out_of_train_and_is_told():
    train = table(*many(100))
    data = [make_task("t", train, None, None, fold=fold) for fold in range(10)]
    devs = [set(task.dev.table.places) for task in data]
    assert all(len(dev) == 10 for dev in devs)
    assert set.union(*devs) == set(train.places)
    assert all(set(task.train.table.places) == set(train.places) - dev for task, dev in zip(data, devs, strict=True))
    assert data[0].warnings == ("train.csv has no dev file beside it: 10 of its rows are dev, 90 train",)
    assert data[0].dev.targets.tolist() == [int(label) for label in data[0].dev.table.labels]


def test_metric_by_kind():
    assert make_task("t", table(*many(20)), None, None).metric == "mcc"
    assert make_task("t", table(*many(20), labels=["a;b", "b"] * 10), None, None).metric == "auroc"
    numbers = table(*many(20), labels=[f"{number}.5" for number in range(20)])
    assert make_task("t", numbers, None, None).metric == "spearman"
    with pytest.raises(ConfigError, match="'mcc' is none for regression; use spearman, pearson, r2"):
        make_task("t", numbers, None, None, metric="mcc")
    with pytest.raises(ConfigError, match="'bleu' is none for classification"):
        make_task("t", table(*many(20)), None, None, metric="bleu")


def test_rows_in_two_splits_are_counted_with_both_places():
    train = table("AACC", "AAAC", "CCCC", "AAAC")
    dev = table("ACAC", "GGTT", "aaac", source="dev.csv")  # new, the reverse complement of a row, a soft-masked row
    test = table("CATG", "ACAC", source="test.csv")  # its own reverse complement, a row of dev
    assert check_splits(train, dev, test) == [
        "2 of 3 rows of dev are also in train (1 of them as reverse complement), such as dev.csv, line 3 and "
        "train.csv, line 2",
        "1 of 2 rows of test are also in dev (0 of them as reverse complement), such as test.csv, line 3 and "
        "dev.csv, line 2",
    ]
    assert check_splits(train, None, table("CATG")) == []


def test_a_copy_on_the_same_strand_is_none_as_reverse_complement():
    assert "(0 of them" in check_splits(table("AACC", "GGTT"), None, table("AACC"))[0]
    assert "(0 of them" in check_splits(table("CATG"), None, table("CATG"))[0]


def test_unequal_lengths_are_told():
    assert check_splits(table("AACC", "A", "AAA"), None, None) == ["sequences have 1 to 4 bases, half of them up to 3"]


def test_a_class_that_dev_lacks_is_told():
    data = make_task("t", table(*many(10)), table(*many(3, 1), labels="1", source="dev.csv"), None)
    assert data.warnings == ("dev: dev.csv lacks 1 of 2 labels: '0'",)


def test_load_tables_reads_each_split(tmp_path):
    def write(name, sequences):
        rows = "".join(f"{sequence}\t{i % 2}\n" for i, sequence in enumerate(sequences))
        (tmp_path / name).write_text("dna\tclass\n" + rows)
        return tmp_path / name

    train, test = write("some.tsv", many(40)), write("test.tsv", many(5, 1))
    options = {"sequence_column": "dna", "label_column": "class"}
    data = load_tables(train, write("dev.tsv", many(6, 2)), test, **options)
    assert (data.name, data.scheme.names, data.warnings) == ("some", ("0", "1"), ())
    assert [len(split.table) for split in (data.train, data.dev, data.test)] == [40, 6, 5]
    drawn = [load_tables(train, seed=seed, **options) for seed in (0, 0, 1)]
    assert drawn[0].test is None
    assert [len(task.dev.table) for task in drawn] == [4, 4, 4]
    assert drawn[0].dev.table.places == drawn[1].dev.table.places != drawn[2].dev.table.places
