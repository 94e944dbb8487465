"""Hold the ratio of chunks to positions near its target: H-Net's ratio loss, and moves of the routers' offsets.

Both use one number: boundaries per position on sequence without masks, which is what a user of the model gets.
Masked sequence does not show it, because each mask forces boundaries and leaves the cap little to do
(docs/decisions/0016).
"""

from collections.abc import Sequence

import torch

from .chunking import Router
from .levels import BoundaryReason, Chunking
from .shapes import Bool, Float, Tensor


@torch.no_grad()
def count_boundaries(chunkings: Sequence[Chunking]) -> Float[Tensor, "batch stages 2"]:
    """Per row and stage: boundaries, and positions, where the router decides and no mask has a part.

    The cap's boundaries are counted: they make chunks like the others. Guard flips are excluded: they would hide the
    router's drift.
    """
    counts = []
    for chunking in chunkings:
        is_boundary = (chunking.probability > 0.5) | (chunking.reason == BoundaryReason.CAP.value)
        flags = torch.stack([is_boundary & chunking.is_counted, chunking.is_counted], dim=-1)
        counts.append(flags.sum(1))
    return torch.stack(counts, dim=1).float()


def boundary_shares(counts: Float[Tensor, "*rows stages 2"], targets: Sequence[float]) -> Float[Tensor, "*rows stages"]:
    """Boundaries per position of each stage; its target where there was no position to count."""
    boundaries, positions = counts.unbind(-1)
    target = torch.stack([torch.full_like(positions[..., 0], each) for each in targets], dim=-1)
    return torch.where(positions > 0, boundaries / positions.clamp(min=1), target)


def ratio_losses(
    chunkings: Sequence[Chunking], counts: Float[Tensor, "batch stages 2"], targets: Sequence[float]
) -> Float[Tensor, " stages"]:
    """Each stage's ratio loss, the mean over rows.

    F and G are those of the row itself, so that the mean over micro-batches and ranks is the loss of the whole batch.

    Args:
        chunkings: Of a batch, whose p gets the gradient.
        counts: What ``count_boundaries`` gave: F has no gradient, because decisions have none.
        targets: Wanted chunks per position.
    """
    shares, losses = boundary_shares(counts, targets), []
    for stage, (chunking, target) in enumerate(zip(chunkings, targets, strict=True)):
        mean = mean_over_counted(chunking.probability, chunking.is_counted, when_none=target)
        losses.append(ratio_loss(shares[:, stage].to(mean.dtype), mean, target).mean())
    return torch.stack(losses)


def ratio_loss(
    share: Float[Tensor, "*shape"], mean_probability: Float[Tensor, "*shape"], target: float
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
    # Clamped although such rows are replaced: the gradient of 0 / 0 would be NaN behind torch.where, too.
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
        counts: What ``count_boundaries`` gave, summed over rows (and micro-batches and ranks).
        targets: Wanted chunks per position.
        rate: Move of beta, in units of p, per unit of the share's gap.
    """
    shares = boundary_shares(counts, targets)
    for router, share, target in zip(routers, shares, targets, strict=True):
        if router.query.weight.requires_grad:
            # At -1 p is 0 everywhere and at 1 it is 1: a larger offset would change nothing but take longer to undo.
            router.beta.add_(rate * (target - share)).clamp_(-1, 1)
