"""Linear recurrences as matrix products over blocks: what smoothing and the state space mixer compute."""

import torch
from torch import nn

from .shapes import Float, Tensor

BLOCK = 32
"""Positions per block: inside, everything meets everything; between blocks one state is carried on."""


def linear_scan(
    log_decay: Float[Tensor, "batch steps"], inputs: Float[Tensor, "batch steps dim"]
) -> Float[Tensor, "batch steps dim"]:
    """h_k = exp(log_decay_k) h_{k-1} + inputs_k, as triangular matrices over blocks; their ends recurse.

    Decays within a block are sums of the logarithms between two steps (never differences of running sums, whose
    rounding errors reach the gradients).
    """
    batch, steps, dim = inputs.shape
    if steps <= BLOCK:
        return decay_matrix(log_decay) @ inputs
    pad = -steps % BLOCK
    log_decay = nn.functional.pad(log_decay, (0, pad)).reshape(batch, -1, BLOCK)
    blocks = nn.functional.pad(inputs, (0, 0, 0, pad)).reshape(batch, -1, BLOCK, dim)
    within = decay_matrix(log_decay) @ blocks
    since_start = log_decay.cumsum(-1)
    at_end = linear_scan(since_start[..., -1], within[:, :, -1])
    carried = torch.cat([torch.zeros_like(at_end[:, :1]), at_end[:, :-1]], dim=1)
    total = within + since_start.exp()[..., None] * carried[:, :, None]
    return total.reshape(batch, -1, dim)[:, :steps]


def decay_matrix(log_decay: Float[Tensor, "*batch steps"]) -> Float[Tensor, "*batch steps steps"]:
    """Entry [k, j] is the product of the decays j+1..k; 1 on the diagonal, 0 above it."""
    steps = log_decay.shape[-1]
    ones = torch.ones(steps, steps, dtype=torch.bool, device=log_decay.device)
    per_column = log_decay[..., None].expand(*log_decay.shape, steps)
    segment_sum = per_column.masked_fill(~ones.tril(-1), 0.0).cumsum(-2)
    return segment_sum.exp().masked_fill(~ones.tril(), 0.0)
