import numpy as np
import pytest
from sklearn import metrics as sk

from hnet_ntv2.downstream import metrics
from hnet_ntv2.downstream.metrics import Interval95, compute_metric, metric_interval, paired_difference
from hnet_ntv2.errors import ConfigError, InputError


def classes(rows=300, num_classes=3, skill=1.0, seed=0):
    random = np.random.default_rng(seed)
    targets = np.random.default_rng(9).integers(num_classes, size=rows)
    logits = random.normal(size=(rows, num_classes))
    logits[np.arange(rows), targets] += skill
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return targets, scores.astype(np.float32)


def labels(rows=300, num_labels=4):
    random = np.random.default_rng(1)
    targets = (random.random((rows, num_labels)) < 0.4).astype(np.float32)
    return targets, np.clip(0.3 * targets + 0.7 * random.random(targets.shape), 0, 1).astype(np.float32)


def numbers(rows=300):
    random = np.random.default_rng(2)
    targets = random.normal(size=(rows, 2)).astype(np.float32)
    return targets, (targets + random.normal(size=targets.shape)).astype(np.float32)


def test_metrics_of_two_classes_are_scikit_learns():
    targets, scores = classes(num_classes=2)
    predicted = scores.argmax(axis=1)
    assert compute_metric("mcc", targets, scores) == pytest.approx(sk.matthews_corrcoef(targets, predicted))
    assert compute_metric("accuracy", targets, scores) == pytest.approx((targets == predicted).mean())
    assert compute_metric("f1", targets, scores) == pytest.approx(sk.f1_score(targets, predicted, average="macro"))
    assert compute_metric("auroc", targets, scores) == pytest.approx(sk.roc_auc_score(targets, scores[:, 1]))
    assert compute_metric("auprc", targets, scores) == pytest.approx(sk.average_precision_score(targets, scores[:, 1]))


def test_auroc_uses_scores_and_not_hard_labels():
    targets, scores = np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    assert compute_metric("auroc", targets, scores) == 1
    assert compute_metric("mcc", targets, scores) == 0


def test_auroc_of_several_classes_is_one_against_the_rest():
    targets, scores = classes()
    expected = np.mean([sk.roc_auc_score(targets == label, scores[:, label]) for label in range(3)])
    assert compute_metric("auroc", targets, scores) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mcc", "accuracy", "f1", "auroc", "auprc"])
def test_labels_are_scored_one_by_one_and_averaged(name):
    targets, scores = labels()
    one_by_one = [compute_metric(name, targets[:, [label]], scores[:, [label]]) for label in range(4)]
    assert compute_metric(name, targets, scores) == pytest.approx(np.mean(one_by_one))
    if name == "f1":
        expected = sk.f1_score(targets.astype(int), (scores >= 0.5).astype(int), average="macro")
        assert np.mean(one_by_one) == pytest.approx(expected)


def test_correlations_are_of_columns():
    targets, scores = numbers()
    assert compute_metric("pearson", targets[:, :1], scores[:, :1]) == pytest.approx(
        np.corrcoef(targets[:, 0], scores[:, 0])[0, 1]
    )
    assert compute_metric("spearman", targets, targets**3) == pytest.approx(1)
    assert compute_metric("r2", targets, np.broadcast_to(targets.mean(axis=0), targets.shape)) == pytest.approx(0)


def test_constant_scores_have_a_defined_value():
    targets, _ = classes(num_classes=2)
    constant = np.tile(np.float32([0.4, 0.6]), (len(targets), 1))
    assert compute_metric("mcc", targets, constant) == 0
    assert compute_metric("auroc", targets, constant) == 0.5
    assert compute_metric("auprc", targets, constant) == pytest.approx(targets.mean())
    values, _ = numbers()
    assert compute_metric("spearman", values, np.zeros_like(values)) == 0
    assert compute_metric("pearson", values, np.zeros_like(values)) == 0


def test_constant_targets_are_zero_or_nan():
    targets, scores = np.zeros(4, dtype=int), np.full((4, 2), 0.5)
    assert compute_metric("mcc", targets, scores) == 0
    assert np.isnan(compute_metric("auroc", targets, scores))
    assert np.isnan(compute_metric("auprc", targets, scores))
    assert np.isnan(compute_metric("spearman", np.ones((4, 1)), np.arange(4.0)[:, None]))
    assert all(np.isnan(metric_interval("auroc", targets, scores, draws=5)))


def by_scikit_learn(name, targets, scores):
    """The slow definition, one class or label after the other."""
    if targets.ndim == 2:
        columns = [(targets[:, label].astype(int), scores[:, label]) for label in range(targets.shape[1])]
    elif name in ("auroc", "auprc"):
        columns = [((targets == label).astype(int), scores[:, label]) for label in range(scores.shape[1])]
    else:
        columns = [(targets, scores)]
    one = {
        "mcc": sk.matthews_corrcoef,
        "accuracy": sk.accuracy_score,
        "f1": lambda *pair: sk.f1_score(*pair, average="binary" if targets.ndim == 2 else "macro", zero_division=0),
        "auroc": sk.roc_auc_score,
        "auprc": sk.average_precision_score,
    }[name]
    if name in ("auroc", "auprc"):
        return np.mean([one(*column) for column in columns if 0 < column[0].sum() < len(targets)])
    return np.mean([one(true, (of >= 0.5).astype(int) if of.ndim == 1 else of.argmax(axis=1)) for true, of in columns])


@pytest.mark.parametrize("name", ["mcc", "accuracy", "f1", "auroc", "auprc"])
@pytest.mark.parametrize("data", [classes(), labels(), classes(rows=9, num_classes=5)])
def test_metric_of_drawn_rows_is_scikit_learns(name, data):
    targets, scores = data[0], data[1].round(1)  # ties
    of_rows = metrics._metric_of_rows(name, targets, scores)
    for rows in np.random.default_rng(3).integers(len(targets), size=(20, len(targets))):
        assert of_rows(rows) == pytest.approx(by_scikit_learn(name, targets[rows], scores[rows]))


def test_interval_is_that_of_a_slow_bootstrap():
    targets, scores = classes()
    random = np.random.default_rng(5)
    drawn = []
    for _ in range(200):
        rows = random.integers(len(targets), size=len(targets))
        drawn.append(sk.matthews_corrcoef(targets[rows], scores[rows].argmax(axis=1)))
    interval = metric_interval("mcc", targets, scores, draws=200, seed=5)
    assert interval.value == pytest.approx(sk.matthews_corrcoef(targets, scores.argmax(axis=1)))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))))
    assert interval == metric_interval("mcc", targets, scores, draws=200, seed=5)
    assert interval != metric_interval("mcc", targets, scores, draws=200, seed=6)


@pytest.mark.parametrize("name", ["auroc", "auprc"])
def test_interval_of_ranks_contains_its_value(name):
    interval = metric_interval(name, *classes(), draws=30)
    assert interval.low < interval.value < interval.high


def test_interval_of_numbers_contains_its_value():
    for name in ("spearman", "pearson", "r2"):
        interval = metric_interval(name, *numbers(), draws=30)
        assert interval.low < interval.value < interval.high


def test_a_model_differs_from_itself_by_exactly_nothing():
    targets, scores = classes()
    assert paired_difference("mcc", targets, scores, scores, draws=50) == (0, 0, 0)
    assert not Interval95(0, 0, 0).is_above_zero


def test_paired_rows_narrow_the_difference_of_similar_models():
    targets, good = classes(skill=1.5)
    better = good.copy()
    better[:40] = np.eye(3)[targets[:40]]  # right where the other may err, equal elsewhere
    paired = paired_difference("accuracy", targets, better, good, draws=300)
    alone = metric_interval("accuracy", targets, good, draws=300)
    assert paired.is_above_zero
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    reverse = paired_difference("accuracy", targets, good, better, draws=300)
    assert reverse == pytest.approx((-paired.value, -paired.high, -paired.low))


def test_runs_are_averaged_and_three_are_resampled():
    targets, _ = classes()
    runs = [classes(skill=skill, seed=seed)[1] for seed, skill in enumerate((0.2, 1.0, 1.8))]
    mean = np.mean([compute_metric("mcc", targets, scores) for scores in runs])
    three = metric_interval("mcc", targets, runs, draws=300)
    two = metric_interval("mcc", targets, runs[::2], draws=300)
    assert three.value == pytest.approx(mean)
    assert three.high - three.low > 1.5 * (two.high - two.low)  # runs this different count as uncertainty
    assert paired_difference("mcc", targets, runs, runs[0], draws=30).value == pytest.approx(
        mean - compute_metric("mcc", targets, runs[0])
    )


def test_equally_many_runs_are_drawn_as_pairs():
    targets, _ = classes()
    runs = [classes(skill=skill, seed=seed)[1] for seed, skill in enumerate((0.2, 1.0, 1.8))]
    assert paired_difference("mcc", targets, runs, runs, draws=50) == (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "targets", "scores", "message"),
    [
        ("mmc", np.zeros(2, int), np.ones((2, 2)), "metric 'mmc' is unknown"),
        ("spearman", np.zeros(2, int), np.ones((2, 2)), "is for numbers"),
        ("mcc", np.full((2, 1), 0.3), np.ones((2, 1)), "is for classes"),
    ],
)
def test_metric_that_does_not_suit_is_refused(name, targets, scores, message):
    with pytest.raises(ConfigError, match=message):
        compute_metric(name, targets, scores)


@pytest.mark.parametrize(
    ("targets", "scores", "message"),
    [
        (np.zeros(3, int), np.ones((2, 2)), r"shape \(2, 2\) do not fit"),
        (np.zeros(0, int), np.ones((0, 2)), r"shape \(0, 2\) do not fit"),
        (np.zeros((2, 3)), np.ones((2, 2)), r"do not fit targets of shape \(2, 3\)"),
        (np.array([0, 2]), np.ones((2, 2)), "class 2 is in the targets"),
        (np.array([0, 1]), np.array([[1, 0], [np.nan, 1]]), r"score of row 2 is \[nan, 1.0\]"),
    ],
)
def test_scores_that_do_not_fit_are_refused(targets, scores, message):
    with pytest.raises(InputError, match=message):
        compute_metric("mcc", targets, scores)
