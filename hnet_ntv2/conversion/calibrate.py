"""Set each router's offset so that the share of boundaries on real sequence starts at its target."""

import logging
from typing import NamedTuple

import torch

from ..errors import DataError
from ..modeling_hnet_ntv2 import HNetNTV2Model
from ..shapes import Float, Int, Tensor

logger = logging.getLogger(__name__)


@torch.no_grad()
def calibrate_routers(
    model: HNetNTV2Model, batches: list[Int[Tensor, "batch length"]], *, count_forced: bool = False
) -> tuple[float, ...]:
    """Set ``beta`` of every router, outermost first, from its own probabilities on these sequences.

    The offset puts the threshold 0.5 midway between the two attained values that enclose the wanted quantile. A stage
    is calibrated with the stages around it already set, because its input depends on them. Forward strand, no masks
    needed, anchors and grid off; only positions that the router decides count.

    Args:
        model: Changed in place.
        batches: Character ids of real sequence.
        count_forced: Put the target midway between the router's share and the chunks per position that come of it,
            which the cap raises; otherwise the router's share alone is at the target.

    Returns:
        The offsets, outermost stage first.

    Raises:
        DataError: if no position is the router's to decide.
    """
    was_training = model.training
    model.eval()
    offsets = []
    for stage, (router, target) in enumerate(zip(model.routers, model.config.target_ratios, strict=True)):
        router.beta.zero_()
        values = torch.cat([_free_probabilities(model, batch, stage) for batch in batches])
        if len(values) == 0:
            raise DataError(f"stage {stage + 1}: the sequences leave the router nothing to decide; give longer ones")
        router.beta.fill_(0.5 - _threshold(values, target))
        if count_forced:
            rates = boundary_rates(model, batches)
            excess = rates.achieved[stage] - rates.router[stage]
            router.beta.fill_(0.5 - _threshold(values, target - excess / 2))
        offsets.append(float(router.beta))
    logger.info("calibrated router offsets: %s", ", ".join(f"{offset:+.4f}" for offset in offsets))
    model.train(was_training)
    return tuple(offsets)


class BoundaryRates(NamedTuple):
    """What the routers do to some sequences, outermost stage first.

    Attributes:
        router: Share of boundaries (p > 0.5) among the positions that the router decides.
        achieved: Chunks per valid position, with everything that is forced.
    """

    router: tuple[float, ...]
    achieved: tuple[float, ...]


@torch.no_grad()
def boundary_rates(model: HNetNTV2Model, batches: list[Int[Tensor, "batch length"]]) -> BoundaryRates:
    """Count boundaries on the forward strand, anchors and grid off.

    Args:
        model: Its mode is kept.
        batches: Character ids; masks may be in them.
    """
    was_training = model.training
    model.eval()
    counts = torch.zeros(len(model.config.target_ratios), 4, dtype=torch.float64)
    for batch in batches:
        for number, stage in enumerate(model(batch, strands="forward", anchors=False, on_grid=False).stages):
            is_over = (stage.probability > 0.5) & stage.is_free
            parts = (is_over, stage.is_free, stage.is_boundary & stage.is_valid, stage.is_valid)
            counts[number] += torch.tensor([int(part.sum()) for part in parts], dtype=torch.float64)
    model.train(was_training)
    over, free, boundaries, valid = counts.clamp(min=1e-9).unbind(1)
    return BoundaryRates(tuple((over / free).tolist()), tuple((boundaries / valid).tolist()))


def _free_probabilities(model: HNetNTV2Model, input_ids: Tensor, stage: int) -> Float[Tensor, " free"]:
    stages = model(input_ids, strands="forward", anchors=False, on_grid=False).stages
    return stages[stage].probability[stages[stage].is_free]


def _threshold(values: Float[Tensor, " free"], target: float) -> float:
    """The value that a share ``target`` of the values exceeds, midway between neighbouring attained values."""
    ordered = values.double().unique()
    counts_above = len(values) - torch.searchsorted(values.double().sort().values, ordered, right=True)
    wanted = target * len(values)
    best = int((counts_above.double() - wanted).abs().argmin())
    upper = ordered[best + 1] if best + 1 < len(ordered) else ordered[best] + 1e-6
    return float((ordered[best] + upper) / 2)
