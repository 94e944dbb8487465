"""Linear models on features of a task's rows: their strength of regularisation is chosen on dev."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..tasks.table import LabelKind, Split, TaskData
from .metrics import compute_metric

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of C (inverse strength of the penalty) that are tried, weakest model first."""

MAX_ITERATIONS = 300
PATIENCE = 2
"""Values of C with a worse dev metric, after which larger ones are not tried."""


@dataclass(frozen=True)
class LinearChoice:
    """The linear model with the best metric on dev.

    Attributes:
        dev_metric: The task's metric on dev.
        strength: Its C.
        scores: float32 [test rows, columns], as in ``UnitResult``.
        num_unconverged: Fits, of all that were tried, that stopped at the limit of iterations.
    """

    dev_metric: float
    strength: float
    scores: NDArray[np.float32]
    num_unconverged: int


def required_splits(data: TaskData) -> tuple[Split, Split]:
    """Dev and test of a task.

    Raises:
        DataError: One is missing.
    """
    if data.dev is None or data.test is None:
        raise DataError(f"{data.name} has no {'dev' if data.dev is None else 'test'} rows: dev chooses, test reports")
    return data.dev, data.test


def choose_linear(data: TaskData, features: Sequence[Any], strengths: Sequence[float] = STRENGTHS) -> LinearChoice:
    """Fit logistic regression (ridge regression for numbers) on train for several C; the best on dev scores test.

    Columns are divided by their standard deviation on train, and centred where they are dense. Of equal dev metrics the
    smallest C wins. One class or label that train has on all or no rows gets its frequency.

    Args:
        data: Gives targets and the metric.
        features: Of train, dev and test: arrays or scipy sparse matrices, [rows, features].
        strengths: Values of C, ascending.

    Raises:
        DataError: The task has no dev or test rows.
    """
    from scipy.sparse import issparse
    from sklearn.preprocessing import StandardScaler

    dev, _ = required_splits(data)
    scaler = StandardScaler(with_mean=not issparse(features[0])).fit(features[0])
    train_x, dev_x, test_x = map(scaler.transform, features)
    model = _Linear(data.scheme.kind, len(data.scheme.names))
    best: LinearChoice | None = None
    num_unconverged, waited = 0, 0
    for strength in strengths:
        num_unconverged += model.fit(train_x, data.train.targets, strength)
        metric = compute_metric(data.metric, dev.targets, model.predict(dev_x))
        if best is None or metric > best.dev_metric or np.isnan(best.dev_metric) > np.isnan(metric):
            best, waited = LinearChoice(metric, strength, model.predict(test_x), 0), 0
        elif metric < best.dev_metric and (waited := waited + 1) == PATIENCE:
            break  # not after equal ones: the weakest models predict one class for all rows
    assert best is not None
    return LinearChoice(best.dev_metric, best.strength, best.scores, num_unconverged)


class _Linear:
    """One linear model for all label kinds; fitted again it starts from where it was."""

    def __init__(self, kind: LabelKind, num_columns: int) -> None:
        from sklearn.linear_model import LogisticRegression

        self._kind, self._num_columns = kind, num_columns
        num_models = num_columns if kind == "multilabel" else 1
        self._models = [LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True) for _ in range(num_models)]
        self._constants: list[int | None] = [None] * num_models

    def fit(self, features: Any, targets: NDArray, strength: float) -> int:
        """Fit; the number of models that did not converge."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import Ridge

        if self._kind == "regression":
            self._ridge = Ridge(alpha=1 / strength).fit(features, targets)
            return 0
        num_unconverged = 0
        for place, column in enumerate(targets.T if targets.ndim == 2 else [targets]):
            if np.ptp(column) == 0:
                self._constants[place] = int(column[0])
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
                model = self._models[place].set_params(C=strength).fit(features, column)
            num_unconverged += int(model.n_iter_.max() >= MAX_ITERATIONS)
        return num_unconverged

    def predict(self, features: Any) -> NDArray[np.float32]:
        """Scores [rows, columns] as in ``UnitResult``."""
        num_rows = features.shape[0]
        if self._kind == "regression":
            return self._ridge.predict(features).reshape(num_rows, -1).astype(np.float32)
        scores = np.zeros((num_rows, self._num_columns), dtype=np.float32)
        for place, (model, constant) in enumerate(zip(self._models, self._constants, strict=True)):
            if self._kind == "multilabel":
                scores[:, place] = constant if constant is not None else model.predict_proba(features)[:, 1]
            elif constant is not None:
                scores[:, constant] = 1
            else:
                scores[:, model.classes_.astype(np.int64)] = model.predict_proba(features)
        return scores
