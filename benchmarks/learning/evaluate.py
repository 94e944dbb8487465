"""Measure an arm: the same windows, the same masks, forward strand and [MASK] targets for all of them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnet_ntv2.data.datamodule import HG38DataModule
from hnet_ntv2.evaluation.demo import baseline_bits
from hnet_ntv2.measuring import (
    LETTERS,
    Sums,
    add_sums,
    chunk_sums,
    length_metrics,
    length_sums,
    reduce_sums,
    score_targets,
    stage_metrics,
    unmasked,
)
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.storage import appearing_file
from hnet_ntv2.vocabulary import FIRST_BASE, is_clean_base, reverse_complement

from .results import CONTEXT_NAMES
from .setup import Setup
from .statistics import bits

Batch = Mapping[str, Tensor]
LogProbs = Callable[[Batch], Tensor]

BLOCK_LENGTH = 16_384  # bases; windows of one block are resampled together
_REPEAT_K = 12
_REPEAT_COUNT = 20
_MASK_FREE_WINDOWS = 256  # 200,000 bases at 768 a window: enough for three decimals of a ratio
_VIEWS: dict[str, dict[str, bool]] = {
    "anchors_off": {"anchors": False},
    "anchors_on": {"anchors": True},
    "grid": {"on_grid": True},
}


class WindowSums:
    """Nats, hits and targets of each window in one view; a window without targets has zeros.

    Kept per window, since the report resamples blocks of windows.
    """

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
        nats, is_hit = score_targets(log_probs, labels, is_target)
        row = rows[is_target.nonzero()[:, 0].numpy()]
        # ``bincount``, not ``self.nats[row] += nats``: that would count one target per window.
        for total, weights in ((self.nats, nats), (self.correct, is_hit), (self.targets, None)):
            weights = None if weights is None else weights.numpy()
            total += np.bincount(row, weights, minlength=len(total))

    def summary(self) -> dict[str, float]:
        """Bits per masked base, accuracy, and the numbers of targets and windows behind them."""
        count = float(self.targets.sum())
        return {
            "bits": float(bits(self.nats, self.targets)),
            "accuracy": float(self.correct.sum()) / count,
            "targets": int(count),
            "windows": int((self.targets > 0).sum()),
        }

    def arrays(self, view: str) -> dict[str, NDArray]:
        """For ``windows.npz``."""
        return {f"{view}/nats": self.nats, f"{view}/correct": self.correct, f"{view}/targets": self.targets}


def validation_batches(data: HG38DataModule, every: int = 1):
    """Batches of every ``every``-th fixed window."""
    for batch in data.val_dataloader():
        # Negative numbers: windows that only fill up a batch.
        keep = (batch["window_index"] >= 0) & (batch["window_index"] % every == 0)
        if bool(keep.any()):
            yield {name: value[keep] for name, value in batch.items()}


@torch.no_grad()
def evaluate_view(log_probs: LogProbs, data: HG38DataModule, setup: Setup, view: str) -> WindowSums:
    """Sums of one view over the windows; ``log_probs`` gives [batch, length, 4]. The grid view masks whole 6-mers."""
    sums = WindowSums(setup.windows)
    for batch in validation_batches(data):
        if view == "grid":
            batch = {**batch, "input_ids": batch["grid_input_ids"], "labels": batch["grid_labels"]}
        sums.add(batch["window_index"].numpy(), log_probs(batch), batch["labels"])
    return sums


def model_log_probs(model: HNetNTV2ForMaskedLM, **options) -> LogProbs:
    """Log-probabilities of our model under some options of its forward pass, forward strand."""

    def log_probs(batch: Batch) -> Tensor:
        shown, labels = (batch[name].long().to(model.device) for name in ("input_ids", "labels"))
        output = model(shown, labels=labels, only_targets=True, strands="forward", **options)
        return output.logits[..., LETTERS].cpu()

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
    sums = {name: reduce_sums(values) for name, values in _sum_chunks(model, data, every).items()}
    stages = range(1, model.config.num_stages + 1)
    metrics = {name: stage_metrics(values, len(stages)) for name, values in sums.items()}
    lengths = length_metrics(sums["mask_free"]["chunk_lengths"])
    return {
        "views": views,
        "ratios": {name: [values[f"stage{stage}/ratio"] for stage in stages] for name, values in metrics.items()},
        "chunk_length": {name: lengths[f"chunk_length_{name}"] for name in ("p50", "p95", "max")},
    }


@torch.no_grad()
def _sum_chunks(model: HNetNTV2ForMaskedLM, data: HG38DataModule, every: int) -> dict[str, Sums]:
    """Sums of the chunks with and without masks, anchors off, over every so many-th window."""
    sums: dict[str, Sums] = {}
    for batch in validation_batches(data, every):
        for name, ids in (("masked", batch["input_ids"]), ("mask_free", unmasked(batch))):
            # Chunks do not depend on labels: with ``only_targets`` they spare most of the head.
            labels = batch["labels"].long().to(model.device)
            options = {"labels": labels, "only_targets": True, "anchors": False, "strands": "forward"}
            stages = model(ids.long().to(model.device), **options).stages
            sums[name] = add_sums(sums.get(name), {**chunk_sums(stages), **length_sums(stages)})
    return sums


def window_facts(data: HG38DataModule, setup: Setup) -> dict[str, NDArray]:
    """Block and repeat-richness of each validation window.

    No annotation of repeats covers all validation windows, so 12-mers are counted instead. A 12-mer is repetitive if it
    occurs at least 20 times on either strand of the training intervals; about twice is expected by chance. The quarter
    of the windows with the largest share of repetitive 12-mers is repeat-rich.
    """
    index = data.window_index("valid")
    start = index.fixed(index.evenly_spread(setup.windows)).start
    windows = data.plain_windows("valid", setup.windows).numpy()
    share = repetitive_share(windows, kmer_counts(data.plain_windows("train").numpy()))
    return {"block": start // BLOCK_LENGTH, "is_repeat_rich": share >= np.quantile(share, 0.75)}


def kmer_counts(windows: NDArray[np.uint8]) -> NDArray[np.int32]:
    """How often each 12-mer occurs in some windows or their reverse complements."""
    counts = np.zeros(4**_REPEAT_K, dtype=np.int32)
    # In parts: the codes of all windows at once, 8 bytes a base, would not fit a small machine.
    for part in np.array_split(windows, max(1, len(windows) // 2000)):
        for strand in (part, reverse_complement(part)):
            codes, is_whole = _codes(strand)
            counts += np.bincount(codes[is_whole], minlength=4**_REPEAT_K).astype(np.int32)
    return counts


def repetitive_share(windows: NDArray[np.uint8], counts: NDArray[np.int32]) -> NDArray[np.float64]:
    """Share of each window's 12-mers that are repetitive."""
    codes, is_whole = _codes(windows)  # a 12-mer with an N is not whole, and not counted
    is_frequent = (counts[codes] >= _REPEAT_COUNT) & is_whole
    return is_frequent.sum(1) / np.maximum(is_whole.sum(1), 1)


def _codes(windows: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    is_base = is_clean_base(windows)
    digits = np.where(is_base, windows.astype(np.int64) - FIRST_BASE, 0)
    last = windows.shape[1] - _REPEAT_K + 1
    codes, is_whole = np.zeros((len(windows), last), dtype=np.int64), np.ones((len(windows), last), dtype=bool)
    for offset in range(_REPEAT_K):
        codes = codes * 4 + digits[:, offset : offset + last]
        is_whole &= is_base[:, offset : offset + last]
    return codes, is_whole


def context_baselines(data: HG38DataModule, setup: Setup) -> dict[str, float]:
    """Bits per masked base of the baselines without a network, on the same masks."""
    batches = [(batch["input_ids"].numpy(), batch["labels"].numpy()) for batch in validation_batches(data)]
    found = baseline_bits(list(data.plain_windows("train").numpy()), batches, span=6)
    return {key: found[name] for key, name in CONTEXT_NAMES.items()}


def write_npz(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write arrays, whole or not at all."""
    with appearing_file(path) as partial:
        np.savez_compressed(partial, allow_pickle=False, **arrays)
