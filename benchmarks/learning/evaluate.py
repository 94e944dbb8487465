"""What every arm is measured on: the same windows, the same masks, forward strand, [MASK] targets only."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnet_ntv2.data.datamodule import HG38DataModule
from hnet_ntv2.evaluation.context_counts import ContextCounts, composition_bits
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.storage import appearing_file
from hnet_ntv2.training.metrics import (
    add_sums,
    chunk_length_histogram,
    chunk_sums,
    histogram_metrics,
    stage_metrics,
    unmasked,
)
from hnet_ntv2.vocabulary import FIRST_BASE, reverse_complement

from .setup import Setup

Batch = Mapping[str, Tensor]
LogProbs = Callable[[Batch], Tensor]

BLOCK_LENGTH = 16_384
_REPEAT_K = 12
_REPEAT_COUNT = 20
_MASK_FREE_WINDOWS = 256
_VIEWS: dict[str, dict[str, bool]] = {
    "anchors_off": {"anchors": False},
    "anchors_on": {"anchors": True},
    "grid": {"on_grid": True},
}


class WindowSums:
    """Sums per window of one view; windows that the view leaves out have no targets."""

    def __init__(self, num_windows: int):
        self.nats, self.correct, self.targets = (np.zeros(num_windows) for _ in range(3))

    def add(self, rows: NDArray[np.int64], log_probs: Tensor, labels: Tensor) -> None:
        """Add windows.

        Args:
            rows: Their numbers.
            log_probs: [rows, length, 4] of A, C, G, T.
            labels: [rows, length] ids at targets, -100 elsewhere.
        """
        is_target = labels != -100
        classes = (labels.long() - FIRST_BASE).clamp(min=0)
        nats = -log_probs.double().gather(-1, classes[..., None])[..., 0]
        self.nats[rows] += (nats * is_target).sum(1).numpy()
        self.correct[rows] += ((log_probs.argmax(-1) == classes) & is_target).sum(1).numpy()
        self.targets[rows] += is_target.sum(1).numpy()

    def summary(self) -> dict[str, float]:
        """Bits per masked base, accuracy and what they were counted on."""
        count = float(self.targets.sum())
        return {
            "bits": float(self.nats.sum()) / count / math.log(2),
            "accuracy": float(self.correct.sum()) / count,
            "targets": int(count),
            "windows": int((self.targets > 0).sum()),
        }

    def arrays(self, view: str) -> dict[str, NDArray]:
        """For ``windows.npz``."""
        return {f"{view}/nats": self.nats, f"{view}/correct": self.correct, f"{view}/targets": self.targets}


def validation_batches(data: HG38DataModule, every: int = 1):
    """Batches of the fixed windows; of every so many-th of them where ``every`` is above 1."""
    for batch in data.val_dataloader():
        keep = (batch["window_index"] >= 0) & (batch["window_index"] % every == 0)
        if bool(keep.any()):
            yield {name: value[keep] for name, value in batch.items()}


def on_grid(batch: Batch) -> dict[str, Tensor]:
    """The same windows with whole 6-mer tokens masked."""
    return {**batch, "input_ids": batch["grid_input_ids"], "labels": batch["grid_labels"]}


@torch.no_grad()
def evaluate_view(log_probs: LogProbs, data: HG38DataModule, setup: Setup, view: str, every: int = 1) -> WindowSums:
    """One view over the windows; ``log_probs`` gives [batch, length, 4]."""
    sums = WindowSums(setup.windows)
    for batch in validation_batches(data, every):
        shown = on_grid(batch) if view == "grid" else batch
        sums.add(batch["window_index"].numpy(), log_probs(shown), shown["labels"])
    return sums


def model_log_probs(model: HNetNTV2ForMaskedLM, **options) -> LogProbs:
    """Log-probabilities of our model under some options of its forward pass, forward strand."""

    def log_probs(batch: Batch) -> Tensor:
        shown, labels = (batch[name].long().to(model.device) for name in ("input_ids", "labels"))
        output = model(shown, labels=labels, only_targets=True, strands="forward", **options)
        return output.logits[..., FIRST_BASE : FIRST_BASE + 4].cpu()

    return log_probs


def evaluate_model(model: HNetNTV2ForMaskedLM, data: HG38DataModule, setup: Setup) -> dict:
    """All views of a model, its chunk ratios with and without masks and its chunk lengths.

    Returns:
        "views" (name -> ``WindowSums``), "ratios", "chunk_length" as ``result.json`` has them.
    """
    model.eval()
    views = {
        view: evaluate_view(model_log_probs(model, **options), data, setup, view) for view, options in _VIEWS.items()
    }
    every = max(1, setup.windows // _MASK_FREE_WINDOWS)
    masked, free, histogram = _chunking(model, data, every)
    lengths = histogram_metrics(histogram)
    return {
        "views": views,
        "ratios": {"masked": masked, "mask_free": free},
        "chunk_length": {name: lengths[f"chunk_length_{name}"] for name in ("p50", "p95", "max")},
    }


@torch.no_grad()
def _chunking(model: HNetNTV2ForMaskedLM, data: HG38DataModule, every: int):
    sums, histogram = {}, None
    for batch in validation_batches(data, every):
        shown, labels = (batch[name].long().to(model.device) for name in ("input_ids", "labels"))
        for name, input_ids in (("masked", shown), ("mask_free", unmasked(batch).to(shown))):
            output = model(input_ids, labels=labels, only_targets=True, anchors=False, strands="forward")
            sums[name] = add_sums(sums.get(name), chunk_sums(output))
            if name == "mask_free":
                counts = chunk_length_histogram(output)
                histogram = counts if histogram is None else histogram + counts
    assert histogram is not None
    ratios = []
    for name in ("masked", "mask_free"):
        metrics = stage_metrics({key: float(value) for key, value in sums[name].items()}, model.config.num_stages)
        ratios.append([metrics[f"stage{stage}/ratio"] for stage in range(1, model.config.num_stages + 1)])
    return *ratios, histogram


def window_facts(data: HG38DataModule, setup: Setup) -> dict[str, NDArray]:
    """Block and repeat-richness of each validation window.

    No annotation covers all validation windows, so repeats are told by counting: a 12-mer is repetitive if it occurs at
    least 20 times on either strand of the training intervals (about twice is expected by chance); the quarter of the
    windows with the largest share of repetitive 12-mers is repeat-rich.
    """
    index = data.window_index("valid")
    start = index.fixed(index.evenly_spread(setup.windows)).start
    windows = data.plain_windows("valid", setup.windows).numpy()
    share = repetitive_share(windows, kmer_counts(data.plain_windows("train").numpy()))
    return {"block": start // BLOCK_LENGTH, "is_repeat_rich": share >= np.quantile(share, 0.75)}


def kmer_counts(windows: NDArray[np.uint8]) -> NDArray[np.int32]:
    """How often each 12-mer occurs in some windows or their reverse complements."""
    counts = np.zeros(4**_REPEAT_K, dtype=np.int32)
    for part in np.array_split(windows, max(1, len(windows) // 2000)):
        for strand in (part, reverse_complement(part)):
            codes, is_whole = _codes(strand)
            counts += np.bincount(codes[is_whole], minlength=4**_REPEAT_K).astype(np.int32)
    return counts


def repetitive_share(windows: NDArray[np.uint8], counts: NDArray[np.int32]) -> NDArray[np.float64]:
    """Share of each window's 12-mers that are repetitive."""
    codes, is_whole = _codes(windows)
    is_frequent = (counts[codes] >= _REPEAT_COUNT) & is_whole
    return is_frequent.sum(1) / np.maximum(is_whole.sum(1), 1)


def _codes(windows: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    digits = windows.astype(np.int64) - FIRST_BASE
    is_base = (digits >= 0) & (digits < 4)
    digits = np.where(is_base, digits, 0)
    last = windows.shape[1] - _REPEAT_K + 1
    codes, is_whole = np.zeros((len(windows), last), dtype=np.int64), np.ones((len(windows), last), dtype=bool)
    for offset in range(_REPEAT_K):
        codes = codes * 4 + digits[:, offset : offset + last]
        is_whole &= is_base[:, offset : offset + last]
    return codes, is_whole


def context_baselines(data: HG38DataModule, setup: Setup) -> dict[str, float]:
    """Bits per masked base of the baselines without a network, on the same masks."""
    arrays = list(data.plain_windows("train").numpy())
    batches = [(batch["input_ids"].numpy(), batch["labels"].numpy()) for batch in validation_batches(data)]
    result = {
        "uniform": 2.0,
        "composition": float(np.concatenate([composition_bits(arrays, y) for _, y in batches]).mean()),
    }
    for k in (2, 6):
        counts = ContextCounts.fit(arrays, k)
        result[f"k{k}"] = float(np.concatenate([counts.bits_per_base(x, y) for x, y in batches]).mean())
    return result


def write_npz(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write arrays, whole or not at all."""
    with appearing_file(path) as partial:
        np.savez_compressed(partial, allow_pickle=False, **arrays)
