"""Bring chunk vectors back to their positions: smoothing in both directions, straight-through confidence, gated skip.

Source: H-Net (arXiv 2507.07955), dechunking layer; the backward half is its mirror image.
"""

import torch
from torch import nn

from .chunking import BoundaryReason, ChunkIndex, Routing
from .scans import linear_scan
from .shapes import Bool, Float, Tensor

_CLAMP = 1e-4


def boundary_weights(
    routing: Routing, index: ChunkIndex, forced_probability: str = "one"
) -> Float[Tensor, "batch chunks"]:
    """P of each chunk's first position: the router's p clamped to [1e-4, 1 - 1e-4], exactly 1 where it was forced.

    A row's first chunk keeps the clamp of the reference, 1 - 1e-4. Unused slots get 1.

    Args:
        routing: Decisions at the positions.
        index: Where the chunks lie.
        forced_probability: "router" keeps the router's own p at forced boundaries as well.
    """
    weight = routing.probability.clamp(_CLAMP, 1 - _CLAMP)
    if forced_probability == "one":
        weight = weight.masked_fill(_is_overruled(routing), 1.0)
    return weight.gather(1, index.first).masked_fill(~index.has_chunk, 1.0)


def confidence(routing: Routing) -> Float[Tensor, "batch positions"]:
    """1 in the forward pass; backward, p at a boundary and 1 - p where there is none, if the router chose."""
    chosen = torch.where(routing.is_boundary, routing.probability, 1 - routing.probability)
    chosen = torch.where(_is_overruled(routing), chosen.detach(), chosen)
    return 1 + (chosen - chosen.detach())


def _is_overruled(routing: Routing) -> Bool[Tensor, "batch positions"]:
    return (routing.reason != BoundaryReason.ROUTER.value) & (routing.reason != BoundaryReason.ROW_START.value)


def smooth_forward(
    chunks: Float[Tensor, "batch chunks dim"], weight: Float[Tensor, "batch chunks"]
) -> Float[Tensor, "batch chunks dim"]:
    """zbar_k = P_k z_k + (1 - P_k) zbar_{k-1}, starting from zero."""
    return linear_scan(_log_one_minus(weight), weight[..., None] * chunks)


def smooth_backward(
    chunks: Float[Tensor, "batch chunks dim"],
    weight: Float[Tensor, "batch chunks"],
    has_chunk: Bool[Tensor, "batch chunks"],
) -> Float[Tensor, "batch chunks dim"]:
    """u_k = P_{k+1} z_k + (1 - P_{k+1}) u_{k+1}; the last valid chunk starts the scan with its own vector."""
    has_next = torch.cat([has_chunk[:, 1:], torch.zeros_like(has_chunk[:, :1])], dim=1)
    next_weight = torch.cat([weight[:, 1:], torch.ones_like(weight[:, :1])], dim=1).masked_fill(~has_next, 1.0)
    return smooth_forward(chunks.flip(1), next_weight.flip(1)).flip(1)


def smooth(
    chunks: Float[Tensor, "batch chunks dim"],
    weight: Float[Tensor, "batch chunks"],
    has_chunk: Bool[Tensor, "batch chunks"],
) -> Float[Tensor, "batch chunks dim"]:
    """Mean of the forward and the backward smoothing, in float32 (or the float64 of its input), despite autocast."""
    with torch.autocast(chunks.device.type, enabled=False):
        wide = torch.float64 if torch.float64 in (chunks.dtype, weight.dtype) else torch.float32
        # Unused slots may hold anything, NaN too: they must not enter a sum even with weight 0.
        clean = chunks.to(wide).masked_fill(~has_chunk[..., None], 0.0)
        weight = weight.to(wide)
        both = smooth_forward(clean, weight) + smooth_backward(clean, weight, has_chunk)
        return both / 2


def _log_one_minus(weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(1 - P), minus infinity at P = 1 with a zero gradient instead of NaN."""
    is_one = weight >= 1
    return torch.log1p(-weight.masked_fill(is_one, 0.5)).masked_fill(is_one, -torch.inf)


def input_dtype(layer: nn.Module) -> torch.dtype:
    """What a linear layer takes outside autocast: its weight's type, float32 where the weight is quantized."""
    return layer.weight.dtype if isinstance(layer.weight, Tensor) else torch.float32


class Upsampler(nn.Module):
    """Expansion of chunks to positions: ``smoothed chunk x STE(confidence) + gated skip (+ offset embedding)``.

    Args:
        dim: Width of the positions' vectors.
        num_offsets: Rows of the learned embedding of a position's offset in its chunk; 0 for none.
        use_smoothing: Off, a chunk's own vector is copied to its positions.
        forced_probability: See ``boundary_weights``.
    """

    def __init__(self, dim: int, num_offsets: int = 0, use_smoothing: bool = True, forced_probability: str = "one"):
        super().__init__()
        self.skip = nn.Linear(dim, dim)
        self.skip.starts_at_zero = True  # pyright: ignore[reportArgumentType]
        self.offset = nn.Embedding(num_offsets, dim) if num_offsets else None
        self.use_smoothing = use_smoothing
        self.forced_probability = forced_probability

    def forward(
        self,
        chunks: Float[Tensor, "batch chunks dim"],
        fine: Float[Tensor, "batch positions dim"],
        routing: Routing,
        index: ChunkIndex,
        skip_gate: Bool[Tensor, "batch positions"],
    ) -> Float[Tensor, "batch positions dim"]:
        """Return vectors at the positions, float32 or better.

        Args:
            chunks: Main network's output per chunk.
            fine: The positions' vectors before chunking (input of the skip path).
            routing: Decisions at the positions.
            index: Where the chunks lie.
            skip_gate: False where the skip path must be zero (the position's chunk holds a mask).
        """
        if self.use_smoothing:
            weight = boundary_weights(routing, index, self.forced_probability)
            chunks = smooth(chunks, weight, index.has_chunk)
        expanded = chunks.gather(1, index.chunk_of[..., None].expand(-1, -1, chunks.shape[-1]))
        expanded = expanded * confidence(routing)[..., None]
        if self.offset is not None:
            first = index.first.gather(1, index.chunk_of)
            offset = torch.arange(first.shape[1], device=first.device) - first
            expanded = expanded + self.offset(offset.clamp(0, self.offset.num_embeddings - 1))
        with torch.autocast(fine.device.type, enabled=False):
            skip = self.skip(fine.to(input_dtype(self.skip)))
        is_valid = routing.reason != BoundaryReason.PADDING.value
        return (expanded + skip * skip_gate[..., None]) * is_valid[..., None]
