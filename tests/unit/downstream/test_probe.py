"""The probe finds what features hold, dev chooses, test is never looked at; what was left out or empty is told."""

from dataclasses import replace

import numpy as np
import pytest

from hnet_ntv2.downstream import probe
from hnet_ntv2.downstream.metrics import compute_metric
from hnet_ntv2.downstream.probe import run_probe
from hnet_ntv2.errors import DataError
from hnet_ntv2.tasks.table import LabelScheme, Split, Table, TaskData
from hnet_ntv2.vocabulary import encode
from tests.builders import lively_model

MOTIF = b"TATAAA"


def table(sequences: list[bytes]) -> Table:
    numbers = tuple(str(index + 1) for index in range(len(sequences)))
    places = tuple(f"rows.csv, line {number}" for number in numbers)
    return Table("rows.csv", numbers, tuple(encode(each) for each in sequences), None, places)


def motif_split(num_rows: int, random: np.random.Generator) -> Split:
    """Rows of 48 bases with the motif in the first half (class 0) or in the second (class 1)."""
    labels = np.arange(num_rows) % 2
    sequences = []
    for label in labels:
        letters = bytearray(random.choice(list(b"ACGT"), 48).tolist())
        start = int(random.integers(0, 18)) + 24 * int(label)
        letters[start : start + 6] = MOTIF
        sequences.append(bytes(letters))
    return Split(table(sequences), labels.astype(np.int64))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    lively_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def task() -> TaskData:
    random = np.random.default_rng(0)
    splits = [motif_split(count, random) for count in (160, 60, 60)]
    return TaskData("motif", "mcc", LabelScheme("classification", ("first", "second")), *splits)


def test_bins_win_where_the_place_matters(model, task):
    result = run_probe(model, task, 0, layers=("embeddings", "last"), device="cpu")
    assert result.chosen["pool"] == "bins"
    assert result.dev_metric > 0.6
    assert compute_metric("mcc", task.test.targets, result.scores) > 0.5
    assert result.scores.shape == (60, 2)
    np.testing.assert_allclose(result.scores.sum(1), 1, atol=1e-5)
    assert result.num_parameters > 0
    mean = run_probe(model, task, 0, layers=("embeddings", "last"), pools=("mean",), device="cpu")
    assert compute_metric("mcc", task.test.targets, mean.scores) < 0.4


def test_labels_of_test_are_not_looked_at(model, task):
    hidden = replace(task, test=replace(task.test, targets=np.full(60, -1)))
    seen, blind = (run_probe(model, each, 0, layers="last", pools=("bins",), device="cpu") for each in (task, hidden))
    assert np.array_equal(seen.scores, blind.scores)


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_kinds_of_labels(kind, model, task):
    def other(split: Split) -> Split:
        share = np.array([np.isin(bases & 0x7F, (8, 9)).mean() for bases in split.table.bases], np.float32)
        return Split(split.table, np.stack([split.targets if kind == "multilabel" else share, share > share.mean()], 1))

    metric = {"multilabel": "auroc", "regression": "spearman"}[kind]
    splits = [other(split) for split in (task.train, task.dev, task.test)]
    data = TaskData("others", metric, LabelScheme(kind, ("a", "b")), *splits)
    result = run_probe(model, data, 0, layers=("embeddings",), pools=("mean", "bins"), device="cpu")
    assert compute_metric(metric, data.test.targets, result.scores) > 0.6


def test_equal_dev_metrics_go_to_the_simpler_choice(model, task, monkeypatch):
    whole = probe.choose_linear
    monkeypatch.setattr(probe, "choose_linear", lambda *given: replace(whole(*given), dev_metric=0.5))
    chosen = run_probe(model, task, 0, layers=("embeddings", "last"), device="cpu").chosen
    assert (chosen["layer"], chosen["pool"]) == ("embeddings", "mean")


def test_rows_without_bases_are_counted_and_get_the_train_mean(model, task):
    empty = Split(table([b"N" * 48, b"N"]), np.array([0, 1]))

    def join(split: Split) -> Split:
        joined = [
            replace(
                split.table,
                **{n: getattr(split.table, n) + getattr(empty.table, n) for n in ("names", "bases", "places")},
            )
        ]
        return Split(joined[0], np.concatenate([split.targets, empty.targets]))

    data = replace(task, train=join(task.train), test=join(task.test))
    result = run_probe(model, data, 0, layers="last", pools=("bins",), device="cpu")
    assert result.chosen["rows_without_bases"] == 4
    assert np.isfinite(result.scores).all()
    assert np.array_equal(result.scores[-1], result.scores[-2])
    with pytest.raises(DataError, match="no row of train holds an A, C, G or T"):
        run_probe(model, replace(task, train=empty), 0, layers="last", device="cpu")


def test_rows_that_are_left_out_are_told(model, task, monkeypatch, caplog):
    settings = {"layers": ("last",), "pools": ("bins",), "device": "cpu"}
    fewer = run_probe(model, task, 0, max_train_rows=100, **settings)
    assert fewer.chosen["train_rows"] == fewer.chosen["sweep_rows"] == 100
    assert "100 of 160 rows are used" in caplog.text
    again, other = (run_probe(model, task, seed, max_train_rows=100, **settings) for seed in (0, 1))
    assert np.array_equal(again.scores, fewer.scores)
    assert not np.array_equal(other.scores, fewer.scores)
    # What does not fit into memory for all layers is left out of the comparison only.
    monkeypatch.setattr(probe, "_MOST_SWEEP_BYTES", 0)
    monkeypatch.setattr(probe, "_FEWEST_SWEEP_ROWS", 80)
    compared = run_probe(model, task, 0, **settings)
    assert (compared.chosen["sweep_rows"], compared.chosen["train_rows"]) == (60, 160)
    monkeypatch.undo()
    assert np.array_equal(compared.scores, run_probe(model, task, 0, **settings).scores)


def test_fits_that_do_not_converge_are_counted(model, task, monkeypatch):
    monkeypatch.setattr("hnet_ntv2.downstream.linear.MAX_ITERATIONS", 1)
    assert run_probe(model, task, 0, layers="last", pools=("mean",), device="cpu").chosen["unconverged_fits"] > 1


def test_a_task_without_dev_is_refused(model, task):
    with pytest.raises(DataError, match="motif has no dev rows"):
        run_probe(model, replace(task, dev=None), 0)
