"""Bring chunk vectors back to their positions: smoothing in both directions, straight-through confidence, gated skip.

Source: H-Net (arXiv 2507.07955), dechunking layer; the backward half is its mirror image.
"""

import torch
from torch import nn

from .levels import BoundaryReason, Chunking
from .shapes import Bool, Float, Tensor

# As in H-Net: a router's P of exactly 0 or 1 would stop the gradient to the chunks on the far side of the boundary.
_CLAMP = 1e-4

# Chunks per block of the scan: inside a block each meets each in one matrix product; between blocks one state goes on.
_BLOCK = 32


def boundary_weights(chunking: Chunking) -> Float[Tensor, "batch chunks"]:
    """P of each chunk's first position: the router's p clamped to [1e-4, 1 - 1e-4], exactly 1 where it was forced.

    A row's first chunk keeps the clamp of the reference, 1 - 1e-4. Unused slots get 1.
    """
    weight = chunking.probability.clamp(_CLAMP, 1 - _CLAMP).masked_fill(_is_overruled(chunking), 1.0)
    return weight.gather(1, chunking.first).masked_fill(~chunking.has_chunk, 1.0)


def confidence(chunking: Chunking) -> Float[Tensor, "batch positions"]:
    """Exactly 1 in value; its gradient is that of p at a boundary and of 1 - p elsewhere, where the router chose.

    This straight-through factor is how the task's loss tells the router that a decision was good.
    """
    chosen = torch.where(chunking.is_boundary, chunking.probability, 1 - chunking.probability)
    chosen = torch.where(_is_overruled(chunking), chosen.detach(), chosen)
    return 1 + (chosen - chosen.detach())


def _is_overruled(chunking: Chunking) -> Bool[Tensor, "batch positions"]:
    return (chunking.reason != BoundaryReason.ROUTER.value) & (chunking.reason != BoundaryReason.ROW_START.value)


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


def linear_scan(
    log_decay: Float[Tensor, "batch steps"], inputs: Float[Tensor, "batch steps dim"]
) -> Float[Tensor, "batch steps dim"]:
    """h_k = exp(log_decay_k) h_{k-1} + inputs_k, as triangular matrices over blocks; their ends recurse.

    Decays within a block are sums of the logarithms between two steps (never differences of running sums, whose
    rounding errors reach the gradients).
    """
    batch, steps, dim = inputs.shape
    if steps <= _BLOCK:
        return _decay_matrix(log_decay) @ inputs
    pad = -steps % _BLOCK
    log_decay = nn.functional.pad(log_decay, (0, pad)).reshape(batch, -1, _BLOCK)
    blocks = nn.functional.pad(inputs, (0, 0, 0, pad)).reshape(batch, -1, _BLOCK, dim)
    within = _decay_matrix(log_decay) @ blocks
    since_start = log_decay.cumsum(-1)
    at_end = linear_scan(since_start[..., -1], within[:, :, -1])
    carried = torch.cat([torch.zeros_like(at_end[:, :1]), at_end[:, :-1]], dim=1)
    total = within + since_start.exp()[..., None] * carried[:, :, None]
    return total.reshape(batch, -1, dim)[:, :steps]


def _decay_matrix(log_decay: Float[Tensor, "*batch steps"]) -> Float[Tensor, "*batch steps steps"]:
    """Entry [k, j] is the product of the decays j+1..k; 1 on the diagonal, 0 above it."""
    steps = log_decay.shape[-1]
    # Column j sums from row j + 1 on. The others are masked and not subtracted: a decay may be 0, its logarithm -inf.
    ones = torch.ones(steps, steps, dtype=torch.bool, device=log_decay.device)
    per_column = log_decay[..., None].expand(*log_decay.shape, steps)
    segment_sum = per_column.masked_fill(~ones.tril(-1), 0.0).cumsum(-2)
    return segment_sum.exp().masked_fill(~ones.tril(), 0.0)


def input_dtype(layer: nn.Module) -> torch.dtype:
    """What a linear layer takes outside autocast: its weight's type, float32 where the weight is quantized."""
    return layer.weight.dtype if isinstance(layer.weight, Tensor) else torch.float32


class Upsampler(nn.Module):
    """Expansion of chunks to positions: ``smoothed chunk x STE(confidence) + gated skip (+ offset embedding)``.

    Args:
        dim: Width of the positions' vectors.
        num_offsets: Rows of the learned embedding of a position's offset in its chunk; 0 for none.
        use_smoothing: Off, a chunk's own vector is copied to its positions.
    """

    def __init__(self, dim: int, num_offsets: int = 0, use_smoothing: bool = True):
        super().__init__()
        self.skip = nn.Linear(dim, dim)
        self.skip.starts_at_zero = True  # pyright: ignore[reportArgumentType]
        self.offset = nn.Embedding(num_offsets, dim) if num_offsets else None
        self.use_smoothing = use_smoothing

    def forward(
        self,
        coarse: Float[Tensor, "batch chunks dim"],
        fine: Float[Tensor, "batch positions dim"],
        chunking: Chunking,
        skip_gate: Bool[Tensor, "batch positions"],
    ) -> Float[Tensor, "batch positions dim"]:
        """Return vectors at the positions, float32 or better.

        Args:
            coarse: The inner network's output per chunk.
            fine: The positions' vectors before chunking (input of the skip path).
            chunking: Where the chunks lie.
            skip_gate: False where the skip path must be zero (the position's chunk holds a mask).
        """
        if self.use_smoothing:
            coarse = smooth(coarse, boundary_weights(chunking), chunking.has_chunk)
        expanded = coarse.gather(1, chunking.chunk_of[..., None].expand(-1, -1, coarse.shape[-1]))
        expanded = expanded * confidence(chunking)[..., None]
        if self.offset is not None:
            first = chunking.first.gather(1, chunking.chunk_of)
            offset = torch.arange(first.shape[1], device=first.device) - first
            # Without a cap a chunk can be longer than the table; padding counts from position 0.
            expanded = expanded + self.offset(offset.clamp(0, self.offset.num_embeddings - 1))
        # H-Net keeps the skip path in float32: in bfloat16 its small early values vanish beside the chunk's.
        with torch.autocast(fine.device.type, enabled=False):
            skip = self.skip(fine.to(input_dtype(self.skip)))
        return (expanded + skip * skip_gate[..., None]) * chunking.is_valid[..., None]
