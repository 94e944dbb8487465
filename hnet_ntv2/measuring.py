"""Measure a model over batches: bits of targets, ratios and shares per stage, lengths of the final chunks.

A ``*_sums`` function counts one batch. Its sums add up over batches, micro-batches and ranks (``add_sums``,
``reduce_sums``). A ``*_metrics`` function turns the numbers of ``reduce_sums`` into values for a log or a report.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .configuration_hnet_ntv2 import HNetNTV2Config
from .errors import DataError
from .levels import BoundaryReason, Chunking, final_chunk_of
from .shapes import Bool, Float, Int, Shaped, Tensor
from .vocabulary import FIRST_BASE, LAST_BASE

Sums = dict[str, torch.Tensor]
Stages = Sequence[Chunking]
Reduce = Callable[[torch.Tensor], torch.Tensor]

LETTERS = slice(FIRST_BASE, LAST_BASE + 1)  # the columns of A, C, G, T in the logits
_METRIC_OF_REASON = {
    BoundaryReason.MASK: "forced_mask",
    BoundaryReason.ANCHOR: "forced_anchor",
    BoundaryReason.GRID: "forced_grid",
    BoundaryReason.CAP: "capped",
    BoundaryReason.GUARD: "guarded",
}


def add_sums(total: Sums | None, addend: Sums) -> Sums:
    """Add two sets of sums with the same names and shapes; None stands for no sums yet."""
    return dict(addend) if total is None else {name: total[name] + value for name, value in addend.items()}


def reduce_sums(sums: Sums, reduce: Reduce = lambda tensor: tensor) -> dict[str, Any]:
    """Sums over all ranks as Python numbers: a float per scalar, a list of floats per vector.

    Args:
        sums: On one device, with the same names and shapes on every rank.
        reduce: Adds a tensor over all ranks.
    """
    # One tensor for all sums: each all-reduce and each copy to the CPU makes a GPU wait.
    flat = reduce(torch.cat([value.reshape(-1) for value in sums.values()])).cpu()
    parts = flat.split([value.numel() for value in sums.values()])
    return {name: part.reshape(sums[name].shape).tolist() for name, part in zip(sums, parts, strict=True)}


# ---- bits of targets


def unmasked(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The ids of a batch's sequence before any target was masked or replaced, [batch, length]."""
    labels = batch["labels"]
    return torch.where(labels == -100, batch["input_ids"].to(labels.dtype), labels)


@torch.no_grad()
def score_targets(
    letters: Float[Tensor, "batch length 4"],
    labels: Shaped[Tensor, "batch length"],
    chosen: Bool[Tensor, "batch length"],
) -> tuple[Float[Tensor, " targets"], Bool[Tensor, " targets"]]:
    """Cross-entropy in nats of each chosen target, and whether its likeliest letter is right, in row-major order.

    Args:
        letters: Logits, or log-probabilities, of A, C, G, T.
        labels: Ids of the bases at targets.
        chosen: Targets to score.
    """
    # Selected before the softmax: a few targets need far less memory than all positions.
    scores = letters[chosen].float()
    classes = labels[chosen].long() - FIRST_BASE
    nats = -scores.log_softmax(-1).gather(-1, classes[:, None])[:, 0]
    # float64, as all sums here: float32 cannot count beyond 16.7 million.
    return nats.double(), scores.argmax(-1) == classes


def target_sums(
    logits: Float[Tensor, "batch length vocab"],
    labels: Shaped[Tensor, "batch length"],
    where: Bool[Tensor, "batch length"],
    name: str,
) -> Sums:
    """Cross-entropy in nats over A, C, G, T, hits and number of the targets in ``where``.

    Args:
        logits: The model's logits.
        labels: Ids of the bases at targets, -100 elsewhere.
        where: Positions to count.
        name: The sums are ``name_nats``, ``name_hits``, ``name_count``.
    """
    chosen = where & (labels != -100)
    nats, is_hit = score_targets(logits[..., LETTERS], labels, chosen)
    return {
        f"{name}_nats": nats.sum(),
        f"{name}_hits": is_hit.sum().double(),
        f"{name}_count": chosen.sum().double(),
    }


def target_metrics(sums: Mapping[str, float], name: str, suffix: str = "") -> dict[str, float]:
    """Bits per base and accuracy of the targets that were summed under ``name``; NaN where there were none."""
    count = sums[f"{name}_count"]
    return {
        f"bits{suffix}": _share(sums[f"{name}_nats"], count) / math.log(2),
        f"accuracy{suffix}": _share(sums[f"{name}_hits"], count),
    }


# ---- ratios and shares per stage


@torch.no_grad()
def chunk_sums(stages: Stages, rows: Bool[Tensor, " batch"] | None = None) -> Sums:
    """Bases of a batch; per stage its positions, boundaries and positions by reason.

    Three more sums per stage cover only the positions that the router decides and no mask influences: their number
    (``counted``), how many the router wants as boundaries (``wanted``), how many become one with cap and guard
    (``kept``).

    Args:
        stages: The chunkings of the batch, outermost first.
        rows: Rows to count; all if None.
    """
    counts_row = _as_column(stages, rows)
    sums = {"bases": (stages[0].is_valid & counts_row).sum().double()}
    for number, stage in enumerate(stages, start=1):
        flags = {
            "positions": stage.is_valid,
            "boundaries": stage.is_boundary & stage.is_valid,
            "counted": stage.is_counted,
            # Guard flips are excluded from "wanted": they would hide the router's drift.
            "wanted": (stage.probability > 0.5) & stage.is_counted,
            "kept": stage.is_boundary & stage.is_counted,
            **{reason.name.lower(): stage.reason == reason for reason in _METRIC_OF_REASON},
        }
        sums.update({f"stage{number}_{name}": (flag & counts_row).sum().double() for name, flag in flags.items()})
    return sums


def stage_metrics(sums: Mapping[str, float], num_stages: int) -> dict[str, float]:
    """Per stage: achieved ratio, chunk length in bases, and shares of boundaries and of positions by reason.

    ``router_share`` is the router's own share of boundaries, ``boundary_share`` the same after cap and guard. Both are
    over the ``counted`` positions of ``chunk_sums``.
    """
    metrics = {}
    for stage in (f"stage{number}" for number in range(1, num_stages + 1)):
        positions, boundaries, counted = (sums[f"{stage}_{name}"] for name in ("positions", "boundaries", "counted"))
        metrics[f"{stage}/ratio"] = _share(boundaries, positions)
        metrics[f"{stage}/chunk_length"] = _share(sums["bases"], boundaries)
        metrics[f"{stage}/router_share"] = _share(sums[f"{stage}_wanted"], counted)
        metrics[f"{stage}/boundary_share"] = _share(sums[f"{stage}_kept"], counted)
        for reason, name in _METRIC_OF_REASON.items():
            metrics[f"{stage}/{name}"] = _share(sums[f"{stage}_{reason.name.lower()}"], positions)
    return metrics


# ---- lengths of the final chunks


@torch.no_grad()
def length_sums(stages: Stages, rows: Bool[Tensor, " batch"] | None = None) -> Sums:
    """``chunk_lengths``: how many final chunks have 0, 1, 2, ... bases, up to the length of a row.

    Args:
        stages: The chunkings of a batch, outermost first.
        rows: Rows to count; all if None.
    """
    is_valid = stages[0].is_valid & _as_column(stages, rows)
    lengths = final_chunk_lengths(final_chunk_of(tuple(stages)), is_valid)
    # Unused slots have length 0. One more bin than bases, so that the histograms of all batches add up.
    return {"chunk_lengths": torch.bincount(lengths[lengths > 0], minlength=is_valid.shape[1] + 1).double()}


def final_chunk_lengths(
    chunk_of: Int[Tensor, "batch length"], is_valid: Bool[Tensor, "batch length"]
) -> Int[Tensor, "batch length"]:
    """Bases of each row's chunks, 0 beyond the last one."""
    return torch.zeros_like(chunk_of).scatter_add_(1, chunk_of, is_valid.to(chunk_of.dtype))


def length_metrics(histogram: Sequence[float] | Float[Tensor, " lengths"]) -> dict[str, float]:
    """Median, 95th percentile and maximum, in bases, of a histogram of chunk lengths; NaN where it is empty.

    A percentile is the least length that this share of the chunks does not exceed, so it is always a whole number.
    """
    histogram = torch.as_tensor(histogram, dtype=torch.float64, device="cpu")
    total, cumulative = float(histogram.sum()), histogram.cumsum(0)
    return {
        "chunk_length_p50": float((cumulative < 0.5 * total).sum()) if total else math.nan,
        "chunk_length_p95": float((cumulative < 0.95 * total).sum()) if total else math.nan,
        "chunk_length_max": float(histogram.nonzero().max()) if total else math.nan,
    }


def _as_column(stages: Stages, rows: Tensor | None) -> Tensor:
    return torch.ones_like(stages[0].is_valid[:, :1]) if rows is None else rows[:, None]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


# ---- a pass over validation windows, and the log of a run

MASK_FREE = "mask_free"
ON_GRID = "on_grid"
_ANCHORS = {False: "anchors_off", True: "anchors_on"}


class ValidationRun:
    """Adds up batches under every setting that is reported, then makes the report.

    ``bits``, ``accuracy`` and the ratios without a suffix belong to the model's own anchor setting: inference uses it,
    and the best checkpoint is chosen by it. Bits count only targets shown as [MASK].

    Args:
        config: Of the model.
        anchors: Anchor settings that are reported besides.
        strands: "forward" or "both"; None is the model's own setting.
    """

    def __init__(self, config: HNetNTV2Config, anchors: Iterable[bool] = (), strands: str | None = None):
        self.config = config
        self.anchor_settings = sorted({config.use_anchors, *anchors})
        self.options = {} if strands is None else {"strands": strands}
        self._sums: dict[str, Sums] = {}

    def add(self, batch: Mapping[str, Tensor], forward: Callable[..., Any]) -> None:
        """Add one batch; ``forward(batch, **options)`` runs the model in evaluation mode."""
        # Negative numbers: windows that only fill up a batch. They have no targets, but their chunks would be counted.
        rows = batch["window_index"] >= 0 if "window_index" in batch else None
        for anchors in self.anchor_settings:
            output = forward(batch, anchors=anchors, **self.options)
            self._add(_ANCHORS[anchors], {**self._target_sums(output, batch), **chunk_sums(output.stages, rows)})
        if "grid_input_ids" in batch:
            view = {**batch, "input_ids": batch["grid_input_ids"], "labels": batch["grid_labels"]}
            # Anchors off: this view is compared with the source, which has the grid's boundaries only.
            output = forward(view, on_grid=True, anchors=False, **self.options)
            self._add(ON_GRID, self._target_sums(output, view))
        # One strand: the reverse strand's chunks are not measured.
        stages = forward({**batch, "input_ids": unmasked(batch)}, anchors=False, strands="forward").stages
        self._add(MASK_FREE, {**chunk_sums(stages, rows), **length_sums(stages, rows)})

    def report(self, reduce: Reduce = lambda tensor: tensor) -> dict[str, float]:
        """Metrics by name, after ``reduce`` has summed a tensor over all ranks."""
        sums = {setting: reduce_sums(values, reduce) for setting, values in self._sums.items()}
        report: dict[str, float] = {}
        for anchors in self.anchor_settings:
            values = sums[_ANCHORS[anchors]]
            is_own = anchors == self.config.use_anchors
            for suffix in [f"_{_ANCHORS[anchors]}", *([""] if is_own else [])]:
                report.update(target_metrics(values, "masked", suffix))
                report.update(target_metrics(values, "unique", f"_non_repeat{suffix}"))
            if is_own:
                report.update(stage_metrics(values, self.config.num_stages))
                report["targets"] = values["masked_count"]
        if ON_GRID in sums:
            report.update(target_metrics(sums[ON_GRID], "masked", f"_{ON_GRID}"))
        values = sums[MASK_FREE]
        metrics = {**stage_metrics(values, self.config.num_stages), **length_metrics(values["chunk_lengths"])}
        return report | {f"{MASK_FREE}/{name}": value for name, value in metrics.items()}

    def _target_sums(self, output: Any, batch: Mapping[str, Tensor]) -> Sums:
        # A target shown as itself could be copied, one shown as another letter misleads: only [MASK] is counted.
        is_shown_masked = batch["input_ids"] == self.config.mask_token_id
        is_unique = is_shown_masked & ~batch["is_repeat"] if "is_repeat" in batch else is_shown_masked
        sums = target_sums(output.logits, batch["labels"], is_shown_masked, "masked")
        return {**sums, **target_sums(output.logits, batch["labels"], is_unique, "unique")}

    def _add(self, setting: str, sums: Sums) -> None:
        self._sums[setting] = add_sums(self._sums.get(setting), sums)


def read_history(path: Path) -> list[dict[str, float]]:
    """Rows of a history file, each with its step; empty cells are left out, a row cut off by a crash too.

    Raises:
        DataError: It is not such a file.
    """
    if not path.is_file():
        return []
    complete, end, _ = path.read_bytes().rpartition(b"\n")  # what follows was cut off, perhaps within a number
    try:
        text = io.StringIO((complete + end).decode("utf-8"), newline="")
        rows = [{name: float(value) for name, value in row.items() if name and value} for row in csv.DictReader(text)]
    except ValueError as error:
        raise DataError(f"{path} is no log of a run: {error}; move it away to go on without it") from error
    if not all("step" in row for row in rows):
        raise DataError(f"{path} has no column 'step'; is it the log of a run?")
    return rows
