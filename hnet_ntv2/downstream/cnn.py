"""A small convolutional network that is trained from random weights on a task's rows alone."""

import copy
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..tasks.table import LabelKind, TaskData
from .counts import OTHER, crop_length, padded_digits
from .linear import required_splits
from .metrics import compute_metric
from .results import UnitResult

MAX_EPOCHS, PATIENCE, BATCH_SIZE = 20, 5, 64
LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 1e-3, 1e-2, 0.3
NUM_BINS = 8  # parts of the row that the last layer tells apart, since sites of promoters and splicing have places


class SmallCNN(nn.Module):
    """Scores [rows, columns] of digits [rows, length]: two convolutions, maxima of eighths, one linear layer."""

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv1d(4, 48, 13, padding=6), nn.BatchNorm1d(48), nn.ReLU(), nn.MaxPool1d(4, ceil_mode=True)),
            *(nn.Dropout(DROPOUT), nn.Conv1d(48, 64, 7, padding=3), nn.BatchNorm1d(64), nn.ReLU()),
            *(nn.AdaptiveMaxPool1d(NUM_BINS), nn.Flatten(), nn.Dropout(DROPOUT), nn.Linear(64 * NUM_BINS, num_columns)),
        )

    def forward(self, digits: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(digits.long(), OTHER + 1)[..., :OTHER]
        return self.layers(one_hot.transpose(1, 2).float())


def fit_cnn(data: TaskData, seed: int) -> UnitResult:
    """Train a small CNN on train until dev stops improving; the best epoch on dev scores test.

    Rows are aligned at their left end and cropped to the 99th percentile of lengths on train. The seed draws weights,
    order and dropout.
    """
    started = time.perf_counter()
    dev, test = required_splits(data)
    length = crop_length(data.train.table)
    train_x, dev_x, test_x = (torch.from_numpy(padded_digits(split.table, length)) for split in (data.train, dev, test))
    targets, scale = _scaled(data)
    history: list[dict[str, Any]] = []
    best: tuple[float, int, dict[str, Tensor]] = (-np.inf, 0, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallCNN(len(data.scheme.names))
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for epoch in range(1, MAX_EPOCHS + 1):
            loss = _train_epoch(model, optimizer, train_x, targets, data.scheme.kind)
            metric = compute_metric(data.metric, dev.targets, _predict(model, dev_x, data.scheme.kind, scale))
            history.append({"epoch": epoch, "train_loss": loss, f"dev_{data.metric}": metric})
            if metric > best[0] or not best[2]:
                best = (metric, epoch, copy.deepcopy(model.state_dict()))
            elif epoch - best[1] >= PATIENCE:
                break
    model.load_state_dict(best[2])
    return UnitResult(
        scores=_predict(model, test_x, data.scheme.kind, scale),
        dev_metric=best[0],
        chosen={"epoch": best[1], "length": length},
        seconds=time.perf_counter() - started,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        history=history,
    )


def _scaled(data: TaskData) -> tuple[Tensor, tuple[NDArray, NDArray]]:
    """Targets of train, numbers at mean 0 and deviation 1, and those means and deviations."""
    targets = data.train.targets
    mean, deviation = np.float32(0), np.float32(1)
    if data.scheme.kind == "regression":
        mean, deviation = targets.mean(axis=0), np.maximum(targets.std(axis=0), 1e-12)
        targets = ((targets - mean) / deviation).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(targets)), (np.asarray(mean), np.asarray(deviation))


def _train_epoch(
    model: SmallCNN, optimizer: torch.optim.Optimizer, rows: Tensor, targets: Tensor, kind: LabelKind
) -> float:
    """One pass over the rows in random order; the mean loss."""
    compute_loss = {
        "classification": nn.functional.cross_entropy,
        "multilabel": nn.functional.binary_cross_entropy_with_logits,
        "regression": nn.functional.mse_loss,
    }[kind]
    model.train()
    total = 0.0
    for batch in torch.randperm(len(rows)).split(BATCH_SIZE):
        if len(batch) == 1 and len(rows) > 1:
            continue  # batch norm has no variance of one row; another epoch's order takes it
        loss = compute_loss(model(rows[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(rows)


@torch.no_grad()
def _predict(model: SmallCNN, rows: Tensor, kind: LabelKind, scale: tuple[NDArray, NDArray]) -> NDArray[np.float32]:
    model.eval()
    logits = torch.cat([model(batch) for batch in rows.split(4 * BATCH_SIZE)])
    if kind == "regression":
        return (logits.numpy() * scale[1] + scale[0]).astype(np.float32)
    return (logits.softmax(dim=1) if kind == "classification" else logits.sigmoid()).numpy()
