from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from hnet_ntv2.downstream import linear
from hnet_ntv2.downstream.baselines import BASELINES, SEEDED
from hnet_ntv2.downstream.counts import count_kmers, crop_length, measure_composition, one_hot_positions
from hnet_ntv2.downstream.linear import choose_linear
from hnet_ntv2.downstream.metrics import compute_metric
from hnet_ntv2.errors import DataError

from .tasks import planted_task, random_sequences, table, task

PAIRS = dict(zip("ACGT", "TGCA", strict=True))


def reverse_complement(sequence):
    return "".join(PAIRS[letter] for letter in reversed(sequence))


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_scores_every_kind_of_labels(name, kind):
    data = planted_task(kind)
    result = BASELINES[name](data, 0)
    assert result.scores.shape == (60, 2)
    assert result.scores.dtype == np.float32
    metric = compute_metric(data.metric, data.test.targets, result.scores)
    least = {"majority": 0.0, "composition": 0.1, "nearest": 0.05}.get(name, 0.5)
    assert metric >= least
    assert result.dev_metric >= least


@pytest.mark.parametrize("name", BASELINES)
def test_neither_labels_of_test_nor_an_unused_seed_change_scores(name):
    data = planted_task(sizes=(60, 30, 30))
    hidden = replace(data, test=replace(data.test, targets=data.test.targets * 0))
    seed = 0 if name in SEEDED else 1
    np.testing.assert_array_equal(BASELINES[name](data, 0).scores, BASELINES[name](hidden, seed).scores)


def test_the_seed_alone_changes_the_cnn():
    data = planted_task(sizes=(60, 30, 30))
    before = torch.random.get_rng_state()
    first, again, other = (BASELINES["cnn"](data, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.scores, again.scores)
    assert np.abs(first.scores - other.scores).max() > 1e-3
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.num_parameters < 100_000
    assert first.dev_metric == max(point["dev_mcc"] for point in first.history)


def test_majority_gives_frequencies_of_train():
    data = task((["ACGT"] * 4, [0, 1, 1, 1]), (["ACGT"] * 2, [0, 1]), (["ACGT"], [0]))
    np.testing.assert_allclose(BASELINES["majority"](data, 0).scores, [[0.25, 0.75]])


@pytest.mark.parametrize("both_strands", [False, True])
@pytest.mark.parametrize("k", [1, 3, 4])
def test_kmers_are_those_of_a_slow_count(k, both_strands):
    sequences = ["acgtNACGTTTGCA", "AC", "GATTACAGATTACA", "NNNN", "CCRGGGTATAC"]
    counts = count_kmers(table(*sequences), k, both_strands).toarray()
    seen = {}
    for row, sequence in enumerate(sequences):
        windows = [sequence.upper()[start : start + k] for start in range(len(sequence) - k + 1)]
        expected = Counter(
            min(window, reverse_complement(window)) if both_strands else window
            for window in windows
            if set(window) <= set("ACGT")
        )
        assert sorted(counts[row][counts[row] > 0]) == sorted(expected.values())
        for kmer, count in expected.items():
            seen.setdefault(kmer, []).append((row, count))
    columns = sorted(tuple((row, count) for row, count in enumerate(column) if count) for column in counts.T)
    assert [column for column in columns if column] == sorted(map(tuple, seen.values()))


def test_one_hot_rows_start_at_the_left_and_are_cropped():
    features = one_hot_positions(table("acN", "TGCA"), 3).toarray().reshape(2, 3, 4)
    np.testing.assert_array_equal(features[0], [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(features[1].argmax(axis=1), [3, 2, 1])
    assert crop_length(table(*["ACG"] * 200, "A" * 500)) == 3


def test_composition_is_shares_and_length():
    np.testing.assert_allclose(measure_composition(table("aaCGNNNN")), [[0.25, 0.125, 0.125, 0, 0.5, 0.25, 8]])


def test_onehot_sees_places_that_kmers_do_not():
    splits = []
    for seed in range(3):
        labels = np.arange(200) % 2
        rows = random_sequences(200, seed, length=24)
        starts = np.where(labels, 4, 12)  # the same word in both classes
        rows = [row[:start] + "TATAAA" + row[start + 6 :] for row, start in zip(rows, starts, strict=True)]
        splits.append((rows, labels))
    data = task(*splits)
    metric = {
        name: compute_metric("mcc", splits[2][1], BASELINES[name](data, 0).scores) for name in ("onehot", "kmers")
    }
    assert metric["onehot"] > 0.95
    assert metric["kmers"] < 0.3


def test_nearest_finds_reverse_complements_takes_the_first_of_ties_and_knows_when_there_is_none():
    first, second = random_sequences(2, 0)
    train = ([first, second, second], [0, 1, 0])
    test = ([reverse_complement(first), second[5:35], "ACGTACG", "A" * 40], [0, 0, 0, 0])
    scores = BASELINES["nearest"](task(train, test, test), 0).scores
    np.testing.assert_allclose(scores, [[1, 0], [0, 1], [2 / 3, 1 / 3], [2 / 3, 1 / 3]], rtol=1e-6)


def test_classes_that_train_lacks_score_nothing_and_single_classes_everything():
    rows = random_sequences(20, 0)
    lacking = task((rows, [0, 2] * 10), (rows, [0, 2] * 10), (rows, [0, 1] * 10), columns=3)
    assert BASELINES["composition"](lacking, 0).scores[:, 1].max() == 0
    single = task((rows, [1] * 20), (rows, [0, 1] * 10), (rows, [0, 1] * 10))
    np.testing.assert_array_equal(BASELINES["onehot"](single, 0).scores, [[0, 1]] * 20)
    label = np.stack([np.arange(20) % 2, np.ones(20)], axis=1).astype(np.float32)
    always = BASELINES["onehot"](task((rows, label), (rows, label), (rows, label), "multilabel"), 0)
    np.testing.assert_array_equal(always.scores[:, 1], 1)


def test_fits_that_do_not_converge_are_counted(monkeypatch):
    monkeypatch.setattr(linear, "MAX_ITERATIONS", 1)
    assert BASELINES["onehot"](planted_task(), 0).chosen["unconverged_fits"] >= len(linear.STRENGTHS) // 2


def test_of_equal_models_on_dev_the_one_of_the_smallest_c_scores_test():
    data = planted_task()
    features = [np.eye(2, dtype=np.float32)[split.targets] for split in (data.train, data.dev, data.test)]
    alone = [choose_linear(data, features, [strength]) for strength in linear.STRENGTHS]
    best = next(one for one in alone if one.dev_metric == 1)
    assert linear.STRENGTHS[0] < best.strength < linear.STRENGTHS[-1]
    choice = choose_linear(data, features)
    assert (choice.dev_metric, choice.strength) == (1, best.strength)
    np.testing.assert_allclose(choice.scores, best.scores, atol=1e-3)


@pytest.mark.parametrize("name", BASELINES)
def test_a_task_without_dev_is_refused(name):
    with pytest.raises(DataError, match="planted has no dev rows"):
        BASELINES[name](replace(planted_task(), dev=None), 0)
