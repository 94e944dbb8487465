"""Labels: what kind they are of, how they become numbers, and what is refused."""

import numpy as np
import pytest

from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.errors import ConfigError, DataError
from hnet_ntv2.genome import encode
from hnet_ntv2.tasks import LabelScheme, Table, check_same_labels, encode_labels, label_scheme, scheme_from_config
from hnet_ntv2.tasks.labels import count_missing_labels


def table(*labels: str, source: str = "train.csv", columns: tuple[str, ...] | None = None) -> Table:
    return Table(
        source=source,
        names=tuple(f"row{number}" for number in range(len(labels))),
        bases=(encode(b"ACGT"),) * len(labels),
        labels=labels,
        places=tuple(f"{source}, line {number}" for number in range(2, len(labels) + 2)),
        label_columns=columns,
    )


@pytest.mark.parametrize(
    ("labels", "kind", "names", "targets"),
    [
        (("10", "9", "-1"), "classification", ("-1", "9", "10"), [2, 1, 0]),
        (("1.0", "0", "1"), "classification", ("0", "1"), [1, 0, 1]),
        (("b", "a", "B"), "classification", ("B", "a", "b"), [2, 1, 0]),
        (("0.5", "1", "-2e3"), "regression", ("value",), [[0.5], [1], [-2000]]),
        (("b;a", "a", ";"), "multilabel", ("a", "b"), [[1, 1], [1, 0], [0, 0]]),
    ],
)
def test_kind_is_told_from_the_labels(labels, kind, names, targets):
    scheme = label_scheme([table(*labels)])
    assert scheme == LabelScheme(kind, names)
    found = encode_labels(table(*labels), scheme)
    assert found.dtype == (np.int64 if kind == "classification" else np.float32)
    assert found.tolist() == targets


def test_several_columns_are_labels_or_numbers():
    binary = table("0,1", "1,1.0", columns=("x", "y"))
    assert label_scheme([binary]) == LabelScheme("multilabel", ("x", "y"))
    assert encode_labels(binary, label_scheme([binary])).tolist() == [[0, 1], [1, 1]]
    numbers = table("0,1", "2,0.5", columns=("x", "y"))
    assert label_scheme([numbers]) == LabelScheme("regression", ("x", "y"))
    assert encode_labels(numbers, label_scheme([numbers])).tolist() == [[0, 1], [2, 0.5]]
    assert label_scheme([binary], "regression").kind == "regression"


def test_the_kind_may_be_said():
    assert label_scheme([table("0", "1", "2")], "regression") == LabelScheme("regression", ("value",))
    assert label_scheme([table("1", "X", "2")], "classification").names == ("1", "2", "X")
    with pytest.raises(ConfigError, match=r"'ranking'; use auto, classification, multilabel, regression"):
        label_scheme([table("0", "1")], "ranking")


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (("1", "1"), "auto", r"train.csv: all labels are '1'; there is nothing to learn"),
        (("0.5", "0.5"), "auto", "all labels are '0.5'"),
        ((";", ";"), "auto", "all labels are ';'"),
        (("1", "x"), "auto", r"line 3: the label is the text 'x', but the number 1 in train.csv, line 2"),
        (("0.5", "nan"), "auto", r"line 3: the label is 'nan'; it must be a finite number"),
        (("0.5", "-inf"), "auto", r"line 3: the label is '-inf'; it must be a finite number"),
        (("0.5", "1e60"), "auto", r"line 3: the label is '1e60'; it must be a finite number"),
        (("1", "x"), "regression", r"line 3: the label is 'x', not a number"),
        (("1", "1_0"), "regression", r"line 3: the label is '1_0', not a number"),
        (("1", "0.5"), "classification", r"line 3: the label 0.5 is no class; say --task regression"),
        (("a", ""), "auto", r"line 3: the label is empty"),
        (tuple(map(str, range(101))), "auto", r"101 different labels, such as '0': say whether"),
    ],
)
def test_labels_that_are_refused(labels, kind, message):
    with pytest.raises(DataError, match=message):
        label_scheme([table(*labels)], kind)


def test_more_than_a_hundred_classes_if_said():
    assert len(label_scheme([table(*map(str, range(101)))], "classification").names) == 101


def test_several_columns_that_are_refused():
    with pytest.raises(DataError, match="takes one label column, not 2"):
        label_scheme([table("0,1", columns=("x", "y"))], "classification")
    with pytest.raises(DataError, match=r"line 3: the label is '0,2'; it must be 0 or 1 in each"):
        label_scheme([table("0,1", "0,2", columns=("x", "y"))], "multilabel")
    with pytest.raises(DataError, match=r"line 3: the label is '0,5,1', not 2 numbers"):  # a decimal comma
        label_scheme([table("0,1", "0,5,1", columns=("x", "y"))])
    with pytest.raises(DataError, match=r"dev.csv have labels in different columns"):
        label_scheme([table("0,1", columns=("x", "y")), table("0", source="dev.csv")])


@pytest.mark.parametrize("labels", [("a", "b"), ("a;b", "b;a")])
def test_a_label_outside_train_is_refused_and_one_that_lacks_is_counted(labels):
    train, test = table("a", *labels), table("c", source="test.csv")
    with pytest.raises(DataError, match=r"test.csv, line 2: the label 'c' is none of those to learn, 'a', 'b'"):
        label_scheme([train, test], "multilabel" if ";" in labels[0] else "classification")
    scheme = label_scheme([train])
    assert count_missing_labels(train, scheme) is None
    assert count_missing_labels(table("a", source="dev.csv"), scheme) == "dev.csv lacks 1 of 2 labels: 'b'"


def test_a_table_without_labels():
    with pytest.raises(DataError, match=r"x.csv has no labels; name their column with --label-column"):
        label_scheme([Table("x.csv", ("1",), (encode(b"A"),), None, ("x.csv, line 2",))])


def test_scheme_of_a_model_folder():
    config = HNetNTV2Config(id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    assert scheme_from_config(config) == LabelScheme("classification", ("no", "yes"))
    values = {"id2label": {"0": "a", "1": "b"}, "problem_type": "multi_label_classification"}
    assert scheme_from_config(values) == LabelScheme("multilabel", ("a", "b"))
    assert scheme_from_config({"id2label": {"0": "value"}}) == LabelScheme("regression", ("value",))
    for broken in ({}, {"id2label": {"1": "a"}}, {"id2label": {"0": "a", "1": "b"}, "problem_type": "ranking"}):
        with pytest.raises(ConfigError, match="of the model's config is"):
            scheme_from_config(broken)


def test_labels_of_a_table_and_a_folder_that_disagree():
    scheme = LabelScheme("classification", ("no", "yes"))
    check_same_labels(table("yes", "yes"), scheme, "model")
    message = r"line 3: .*labels of train.csv are 'maybe', 'yes'; model was trained for classification with 'no', 'yes'"
    with pytest.raises(DataError, match=message):
        check_same_labels(table("yes", "maybe"), scheme, "model")
    with pytest.raises(DataError, match=r"model was trained for regression with 'value'"):
        check_same_labels(table("yes", "no"), LabelScheme("regression", ("value",)), "model")
