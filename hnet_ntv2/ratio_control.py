"""Hold the ratio of chunks to positions near its target: H-Net's ratio loss, and moves of the routers' offsets.

Both look at one number, the share of boundaries on sequence without masks, which is what a user of the model gets.
Masked sequence does not show it: every mask forces boundaries, which leave the cap little to do (docs/decisions/0016).
"""

from collections.abc import Sequence

import torch

from .chunking import Router
from .levels import BoundaryReason, Chunking
from .shapes import Bool, Float, Tensor


@torch.no_grad()
def count_boundaries(chunkings: Sequence[Chunking]) -> Float[Tensor, "stages 2"]:
    """Per stage: boundaries, and positions, where the router decides and no mask has a part; float64.

    The cap's boundaries are counted: they are chunks like the others. Guard flips are not: behind them nobody would see
    how far a router has drifted.
    """
    counts = []
    for chunking in chunkings:
        is_boundary = (chunking.probability > 0.5) | (chunking.reason == BoundaryReason.CAP.value)
        counts.append(torch.stack([(is_boundary & chunking.is_counted).sum(), chunking.is_counted.sum()]))
    return torch.stack(counts).double()


def boundary_shares(counts: Float[Tensor, "stages 2"], targets: Sequence[float]) -> list[Float[Tensor, ""]]:
    """Boundaries per position of each stage; its target where there was no position to count."""
    return [
        torch.where(positions > 0, boundaries / positions.clamp(min=1), target)
        for (boundaries, positions), target in zip(counts, targets, strict=True)
    ]


def ratio_losses(
    chunkings: Sequence[Chunking], counts: Float[Tensor, "stages 2"], targets: Sequence[float]
) -> Float[Tensor, " stages"]:
    """Each stage's ratio loss, the mean over windows.

    Args:
        chunkings: Of a batch, whose p gets the gradient.
        counts: What ``count_boundaries`` gave: F has no gradient, because decisions have none.
        targets: Wanted chunks per position.
    """
    losses = []
    for chunking, share, target in zip(chunkings, boundary_shares(counts, targets), targets, strict=True):
        mean = mean_over_counted(chunking.probability, chunking.is_counted, when_none=target)
        losses.append(ratio_loss(share.to(mean.dtype), mean, target).mean())
    return torch.stack(losses)


def ratio_loss(
    share: Float[Tensor, ""], mean_probability: Float[Tensor, "*shape"], target: float
) -> Float[Tensor, "*shape"]:
    """H-Net's ratio loss F G / a + (1 - F)(1 - G) / (1 - a): 1 at F = G = a.

    Args:
        share: F, share of boundaries (no gradient).
        mean_probability: G, mean boundary probability.
        target: a, the wanted share; H-Net's N is 1 / a.
    """
    return share * mean_probability / target + (1 - share) * (1 - mean_probability) / (1 - target)


def mean_over_counted(
    values: Float[Tensor, "batch positions"], is_counted: Bool[Tensor, "batch positions"], when_none: float
) -> Float[Tensor, " batch"]:
    """Mean per row over the positions that count; ``when_none`` for rows without any."""
    count = is_counted.sum(1)
    total = (values * is_counted).sum(1)
    return torch.where(count > 0, total / count.clamp(min=1), torch.full_like(total, when_none))


@torch.no_grad()
def move_offsets(
    routers: Sequence[Router], counts: Float[Tensor, "stages 2"], targets: Sequence[float], rate: float
) -> None:
    """Lower the offset of a router that makes too many boundaries, raise it where there are too few.

    The loss alone lets the ratios swing, because it answers only through the weights (docs/decisions/0010). Frozen
    routers stay as they are: an adapter (LoRA) would not save their offsets.

    Args:
        routers: Outermost first.
        counts: What ``count_boundaries`` gave, of all ranks.
        targets: Wanted chunks per position.
        rate: Move of beta, in units of p, per unit of the share's gap.
    """
    for router, share, target in zip(routers, boundary_shares(counts, targets), targets, strict=True):
        if router.query.weight.requires_grad:
            router.beta.add_(rate * (target - share)).clamp_(-1, 1)
