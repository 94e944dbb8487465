"""A linear probe: logistic or ridge regression on a frozen model's features; dev chooses layer, pooling and C."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..strands import Strands
from ..tasks.table import Split, TaskData
from .features import NUM_BINS, POOLS, Features, open_encoder, pooled_features
from .linear import choose_linear, required_splits
from .results import UnitResult

logger = logging.getLogger(__name__)

SWEEP_STRENGTH = 0.01
"""C at which layers and pools are compared; C itself is chosen for the best of them."""

_MOST_SWEEP_BYTES = 1 << 30
_FEWEST_SWEEP_ROWS = 200
_MOST_TRAIN_ROWS = 100_000


def run_probe(
    folder: str | Path | None,
    data: TaskData,
    seed: int,
    *,
    layers: str | Sequence[str] = "all",
    pools: Sequence[str] = POOLS,
    strands: Strands = "forward",
    device: str = "auto",
    cache: Path | None = None,
    max_train_rows: int = _MOST_TRAIN_ROWS,
) -> UnitResult:
    """Score a task's test rows by a linear model on the layer and pooling that dev chooses.

    Each layer with each pool is fitted on train at one C and scored on dev. For the best, several C are. The test rows
    are encoded for that layer and pool only, and scored once. Of equal dev metrics the narrower pool, the layer nearer
    the input and the smaller C win. Columns are standardised on train. A row without A, C, G and T gets the train mean.

    Args:
        folder: As ``features.open_encoder`` takes it.
        data: Targets of test are not looked at.
        seed: Of random weights, and of the rows that are drawn where there are too many.
        layers: To choose from; "all" for those of the model.
        pools: To choose from, simplest first.
        strands: "both" for tasks without an orientation.
        device: "auto", "cpu", "cuda" ...
        cache: Folder for features, so that further seeds do not compute them.
        max_train_rows: Larger training sets are cut to so many random rows. Layers and pools are compared on as many as
            fit into 1 GiB.

    Returns:
        ``chosen`` also tells the rows used, the rows without A, C, G and T, and the fits that did not converge.

    Raises:
        DataError: The task has no dev or test rows, or no row of train has a base.
        WeightsError, ConfigError: As ``features.open_encoder``.
    """
    started = time.perf_counter()
    dev, test = required_splits(data)
    encoder = open_encoder(folder, seed=seed, device=device)
    names = encoder.layers if layers == "all" else (layers,) if isinstance(layers, str) else tuple(layers)
    train = _draw_rows(data.train, max_train_rows, seed)
    data = replace(data, train=train)

    def encode(split: Split, layers: Sequence[str], pools: Sequence[str]) -> Features:
        return pooled_features(encoder, split.table.bases, layers, pools, strands=strands, cache=cache)

    row_bytes = 4 * encoder.dim * len(names) * sum(NUM_BINS if how == "bins" else 1 for how in pools)
    most_rows = max(_MOST_SWEEP_BYTES // row_bytes, _FEWEST_SWEEP_ROWS)
    some_dev = _draw_rows(dev, most_rows // 4, seed)
    some = replace(data, train=_draw_rows(train, most_rows - len(some_dev.table), seed), dev=some_dev)
    found = [encode(split, names, pools) for split in (some.train, some_dev)]
    (layer, how), num_unconverged = _best_features(some, found)
    if some.train is train and some_dev is dev:
        features = [each[layer, how] for each in found]
    else:
        features = [encode(split, [layer], [how])[layer, how] for split in (train, dev)]
    del found  # up to 1 GiB
    features, num_empty = _fill_empty([*features, encode(test, [layer], [how])[layer, how]])
    best = choose_linear(data, features)
    chosen = {
        "layer": layer,
        "pool": how,
        "C": best.strength,
        "strands": strands,
        "train_rows": len(train.table),
        "sweep_rows": len(some.train.table),
        "rows_without_bases": num_empty,
        "unconverged_fits": num_unconverged + best.num_unconverged,
    }
    seconds = time.perf_counter() - started
    return UnitResult(best.scores, best.dev_metric, chosen, seconds, encoder.num_parameters)


def _best_features(data: TaskData, found: Sequence[Features]) -> tuple[tuple[str, str], int]:
    """Layer and pooling with the best metric on dev, and the number of fits that did not converge.

    Args:
        data: Train and dev.
        found: Features of both, by layer and pooling.
    """
    best, num_unconverged = None, 0
    for layer, how in sorted(
        found[0], key=lambda key: found[0][key].shape[1]
    ):  # a stable sort: layers keep their order
        train, dev = _fill_empty([each[layer, how] for each in found])[0]
        choice = choose_linear(data, [train, dev, dev], (SWEEP_STRENGTH,))  # scores of test are asked for later
        num_unconverged += choice.num_unconverged
        logger.debug("%s %s: dev %s %.4f", layer, how, data.metric, choice.dev_metric)
        # NaN, where dev has one class only, is no better than anything.
        if best is None or choice.dev_metric > best[0] or np.isnan(best[0]) > np.isnan(choice.dev_metric):
            best = (choice.dev_metric, (layer, how))
    assert best is not None
    return best[1], num_unconverged


def _draw_rows(split: Split, most: int, seed: int) -> Split:
    """``Split.draw``, and a warning where rows are left out."""
    if len(split.table) > most:
        logger.warning("%s: %d of %d rows are used, drawn by the seed", split.table.source, most, len(split.table))
    return split.draw(most, seed)


def _fill_empty(features: Sequence[NDArray[np.float32]]) -> tuple[list[NDArray[np.float32]], int]:
    """The features of train and other splits with its mean in place of NaN, and the number of rows that had it.

    Raises:
        DataError: All rows of train are NaN.
    """
    is_empty = [np.asarray(np.isnan(each).any(1)) for each in features]
    if is_empty[0].all():
        raise DataError("no row of train holds an A, C, G or T, so that there is nothing to fit")
    mean = features[0][~is_empty[0]].mean(0)
    filled = [np.where(empty[:, None], mean, each) for empty, each in zip(is_empty, features, strict=True)]
    return filled, int(sum(empty.sum() for empty in is_empty))
