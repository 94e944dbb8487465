"""What is measured of a batch, as sums that add up over micro-batches and ranks, and the values made of them."""

import math
from collections.abc import Callable, Mapping

import torch

from ..levels import BoundaryReason, Chunking, final_chunk_of
from ..outputs import HNetNTV2MaskedLMOutput
from ..shapes import Bool, Float, Int, Shaped, Tensor
from ..vocabulary import FIRST_BASE, LAST_BASE

Sums = dict[str, torch.Tensor]
Stages = tuple[Chunking, ...]
Reduce = Callable[[torch.Tensor], torch.Tensor]

_REASONS = {
    "mask": BoundaryReason.MASK,
    "anchor": BoundaryReason.ANCHOR,
    "grid": BoundaryReason.GRID,
    "cap": BoundaryReason.CAP,
    "guard": BoundaryReason.GUARD,
}


def add_sums(total: Sums | None, addend: Sums) -> Sums:
    """Add two sets of sums with the same names."""
    return dict(addend) if total is None else {name: total[name] + value for name, value in addend.items()}


def reduced(sums: Sums, reduce: Reduce) -> dict[str, float]:
    """Sums of all ranks, as numbers: one transfer for all of them.

    Args:
        sums: Scalars, all on one device, with the same names on every rank.
        reduce: Adds a tensor over all ranks.
    """
    return dict(zip(sums, reduce(torch.stack(list(sums.values()))).tolist(), strict=True))


@torch.no_grad()
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
        where: Which positions to look at.
        name: The sums are ``name_nats``, ``name_hits``, ``name_count``.
    """
    chosen = where & (labels != -100)
    letters = logits[chosen][:, FIRST_BASE : LAST_BASE + 1].float()
    classes = labels[chosen].long() - FIRST_BASE
    nats = -letters.log_softmax(-1).gather(-1, classes[:, None])
    return {
        f"{name}_nats": nats.double().sum(),
        f"{name}_hits": (letters.argmax(-1) == classes).sum().double(),
        f"{name}_count": chosen.sum().double(),
    }


@torch.no_grad()
def stage_sums(stages: Stages, counts: Bool[Tensor, " batch"] | None = None) -> Sums:
    """Bases; per stage: positions, boundaries, positions by reason.

    Args:
        stages: The chunking of a batch.
        counts: Rows to count; all if None.
    """
    row = _rows(stages, counts)
    sums = {"bases": (stages[0].is_valid & row).sum().double()}
    for number, stage in enumerate(stages, start=1):
        counted = {
            "positions": stage.is_valid,
            "boundaries": stage.is_boundary & stage.is_valid,
            **{name: stage.reason == reason for name, reason in _REASONS.items()},
        }
        sums.update({f"stage{number}_{name}": (flag & row).sum().double() for name, flag in counted.items()})
    return sums


@torch.no_grad()
def share_sums(stages: Stages, counts: Bool[Tensor, " batch"] | None = None) -> Sums:
    """Per stage, of the positions that the router decides and no mask has a part in: how many there are, how many the
    router wants as boundaries, and how many become some with cap and guard.

    Args:
        stages: The chunking of a batch.
        counts: Rows to count; all if None.
    """
    row = _rows(stages, counts)
    sums: Sums = {}
    for number, stage in enumerate(stages, start=1):
        counted = {
            "counted": stage.is_counted,
            "wanted": (stage.probability > 0.5) & stage.is_counted,
            "kept": stage.is_boundary & stage.is_counted,
        }
        sums.update({f"stage{number}_{name}": (flag & row).sum().double() for name, flag in counted.items()})
    return sums


def chunk_sums(output: HNetNTV2MaskedLMOutput, counts: Bool[Tensor, " batch"] | None = None) -> Sums:
    """What ``stage_metrics`` needs: ``stage_sums`` and ``share_sums`` of the same chunking."""
    assert output.stages is not None
    return {**stage_sums(output.stages, counts), **share_sums(output.stages, counts)}


def _rows(stages: Stages, counts: Tensor | None) -> Tensor:
    return torch.ones_like(stages[0].is_valid[:, :1]) if counts is None else counts[:, None]


def unmasked(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The ids of a batch's sequence as it was before any of its targets was masked or replaced."""
    labels = batch["labels"]
    return torch.where(labels == -100, batch["input_ids"].to(labels.dtype), labels)


@torch.no_grad()
def chunk_length_histogram(
    output: HNetNTV2MaskedLMOutput, counts: Bool[Tensor, " batch"] | None = None
) -> Float[Tensor, " lengths"]:
    """How many final chunks have 0, 1, 2, ... bases (none has 0); as long as a window has bases, plus one.

    Args:
        output: The model's output.
        counts: Rows to count; all if None.
    """
    assert output.stages is not None
    is_valid = output.stages[0].is_valid
    is_valid = is_valid if counts is None else is_valid & counts[:, None]
    lengths = final_chunk_lengths(final_chunk_of(output.stages), is_valid)
    return torch.bincount(lengths[lengths > 0], minlength=is_valid.shape[1] + 1).double()


def final_chunk_lengths(
    chunk_of: Int[Tensor, "batch length"], is_valid: Bool[Tensor, "batch length"]
) -> Int[Tensor, "batch length"]:
    """Bases of each row's chunks, 0 beyond the last one."""
    lengths = torch.zeros_like(chunk_of)
    return lengths.scatter_add_(1, chunk_of, is_valid.to(chunk_of.dtype))


def target_metrics(sums: Mapping[str, float], name: str, suffix: str = "") -> dict[str, float]:
    """Bits per base and accuracy of the targets that were summed under ``name``; NaN where there were none."""
    count = sums[f"{name}_count"]
    if not count:
        return {f"bits{suffix}": math.nan, f"accuracy{suffix}": math.nan}
    return {
        f"bits{suffix}": sums[f"{name}_nats"] / count / math.log(2),
        f"accuracy{suffix}": sums[f"{name}_hits"] / count,
    }


def stage_metrics(sums: Mapping[str, float], num_stages: int) -> dict[str, float]:
    """Per stage: achieved ratio, chunk length in bases, shares forced, capped and guarded.

    And of what ``share_sums`` counted, the router's own share of boundaries and the share with those of cap and guard.
    """
    metrics = {}
    for number in range(1, num_stages + 1):
        stage = f"stage{number}"
        positions, boundaries = sums[f"{stage}_positions"], sums[f"{stage}_boundaries"]
        metrics[f"{stage}/ratio"] = _share(boundaries, positions)
        metrics[f"{stage}/chunk_length"] = _share(sums["bases"], boundaries)
        metrics[f"{stage}/router_share"] = _share(sums[f"{stage}_wanted"], sums[f"{stage}_counted"])
        metrics[f"{stage}/boundary_share"] = _share(sums[f"{stage}_kept"], sums[f"{stage}_counted"])
        for name in ("mask", "anchor", "grid"):
            metrics[f"{stage}/forced_{name}"] = _share(sums[f"{stage}_{name}"], positions)
        metrics[f"{stage}/capped"] = _share(sums[f"{stage}_cap"], positions)
        metrics[f"{stage}/guarded"] = _share(sums[f"{stage}_guard"], positions)
    return metrics


def histogram_metrics(histogram: Float[Tensor, " lengths"]) -> dict[str, float]:
    """Median, 95th percentile and maximum of the chunk lengths in a histogram."""
    total = float(histogram.sum())
    if not total:
        return {"chunk_length_p50": math.nan, "chunk_length_p95": math.nan, "chunk_length_max": math.nan}
    cumulative = histogram.cumsum(0)
    return {
        "chunk_length_p50": float((cumulative < 0.5 * total).sum()),
        "chunk_length_p95": float((cumulative < 0.95 * total).sum()),
        "chunk_length_max": float(histogram.nonzero().max()),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
