"""Set each router's offset so that its ratio of boundaries on real sequence starts at the target."""

import logging
from typing import NamedTuple

import torch

from ..chunking import Router
from ..errors import DataError
from ..levels import Level
from ..modeling_hnet_ntv2 import HNetNTV2Model
from ..shapes import Float, Int, Tensor

logger = logging.getLogger(__name__)

_MOST_PASSES = 8
_CLOSE_ENOUGH = 0.01  # of the target

TEXT_BASES = 1 << 21
"""Bases in which a chunker counts k-mers: 500 for each 6-mer."""


@torch.no_grad()
def calibrate_routers(
    model: HNetNTV2Model,
    batches: list[Int[Tensor, "batch length"]],
    text: Int[Tensor, "windows bases"] | None = None,
) -> tuple[float, ...]:
    """Set ``beta`` of every router, outermost first, so that the ratio of boundaries on these sequences is the target.

    The ratio counts the positions that the router decides, with the boundaries that cap and guard make of its
    decisions: the ratio that training holds at the target (docs/decisions/0014). Each pass sets ``beta`` so that a
    quantile of the probabilities lies at the threshold 0.5. It then corrects the quantile by the gap between target and
    ratio. It stops at a gap of 1 % of the target, or after 8 passes; the best pass is kept. Forward strand, anchors and
    grid off.

    Args:
        model: Changed in place.
        batches: Character ids of real sequence without masks, on any device.
        text: More of it, for ``chunker="entropy"``, which has tables of counts instead of offsets; None: ``batches``.

    Returns:
        The offsets, outermost stage first.

    Raises:
        DataError: The router decides no position of them.
    """
    if model.branching is not None:
        model.branching.count(batches if text is None else [text])
    if not model.config.has_offsets:
        return (0.0,) * model.config.num_stages
    offsets = []
    # From the outermost stage in: the input of a stage depends on the boundaries of the stages around it.
    for number, target in enumerate(model.config.target_ratios):
        router = model.routers[number]
        # Encoded once for all passes, which need only a few numbers per position.
        seen = [_router_input(model, batch, number) for batch in batches]
        router.beta.zero_()
        values = torch.cat(
            [chunking.probability[chunking.is_free] for chunking in (router.decide(*each) for each in seen)]
        )
        if len(values) == 0:
            raise DataError(f"stage {number + 1}: the sequences leave the router nothing to decide; give longer ones")
        attempts, quantile = [], target
        for _ in range(_MOST_PASSES):
            router.beta.fill_(0.5 - _threshold(values, quantile))
            gap = target - _ratio(router, seen)
            attempts.append((abs(gap), float(router.beta)))
            if abs(gap) <= _CLOSE_ENOUGH * target:
                break
            # Not the quantile of the target: cap and guard change the ratio that a threshold alone would give.
            quantile = min(max(quantile + gap, 0.0), 1.0)
        router.beta.fill_(min(attempts)[1])
        offsets.append(float(router.beta))
    logger.info("calibrated router offsets: %s", ", ".join(f"{offset:+.4f}" for offset in offsets))
    return tuple(offsets)


class BoundaryRates(NamedTuple):
    """Ratios of boundaries on some sequences, outermost stage first.

    Attributes:
        router: Boundaries (p > 0.5) per position that the router decides.
        achieved: Chunks per valid position, with everything that is forced.
    """

    router: tuple[float, ...]
    achieved: tuple[float, ...]


@torch.no_grad()
def boundary_rates(model: HNetNTV2Model, batches: list[Int[Tensor, "batch length"]]) -> BoundaryRates:
    """Count boundaries on the forward strand, anchors and grid off.

    Args:
        model: With its routers.
        batches: Character ids, on any device; masks may be in them.
    """
    counts = torch.zeros(len(model.config.target_ratios), 4, dtype=torch.float64)
    for batch in batches:
        for number, stage in enumerate(model.chunk(batch.to(model.device))):
            is_over = (stage.probability > 0.5) & stage.is_free
            parts = (is_over, stage.is_free, stage.is_boundary & stage.is_valid, stage.is_valid)
            counts[number] += torch.tensor([int(part.sum()) for part in parts], dtype=torch.float64)
    # A stage that decides no position has the ratio 0, not NaN.
    over, free, boundaries, valid = counts.clamp(min=1e-9).unbind(1)
    return BoundaryRates(tuple((over / free).tolist()), tuple((boundaries / valid).tolist()))


def _router_input(model: HNetNTV2Model, input_ids: Tensor, number: int) -> tuple[Tensor, Level]:
    """Dissimilarities at a stage, and its level without the vectors."""
    level = model.base_level(input_ids.to(model.device))
    for outer in model.stages[:number]:
        level = outer.encode(level)
        level = outer.pool(level, outer.router(level))
    stage = model.stages[number]
    dissimilarity = model.routers[number].dissimilarity(stage.encode(level).hidden)
    # Without the vectors: they take a thousand times the memory of the rest.
    return dissimilarity, level._replace(hidden=level.hidden[..., :0], tail=None)


def _ratio(router: Router, seen: list[tuple[Tensor, Level]]) -> float:
    """Boundaries per position that the router decides, those of cap and guard included."""
    chunkings = [router.decide(*each) for each in seen]
    kept = sum(int((chunking.is_boundary & chunking.is_free).sum()) for chunking in chunkings)
    return kept / sum(int(chunking.is_free.sum()) for chunking in chunkings)


def _threshold(values: Float[Tensor, " free"], target: float) -> float:
    """The value that a fraction ``target`` of the values exceeds, midway between neighbouring attained values."""
    # Counted at each distinct value: repeats in the sequence give ties, which torch.quantile would split.
    ordered = values.double().unique()
    counts_above = len(values) - torch.searchsorted(values.double().sort().values, ordered, right=True)
    wanted = target * len(values)
    best = int((counts_above.double() - wanted).abs().argmin())
    # Above the greatest value there is no neighbour: 1e-6 more, so that no position exceeds it.
    upper = ordered[best + 1] if best + 1 < len(ordered) else ordered[best] + 1e-6
    return float((ordered[best] + upper) / 2)
