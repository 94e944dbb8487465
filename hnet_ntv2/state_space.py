"""A bidirectional selective state space model in Mamba-2's form, in plain torch: the other local mixer."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .kmers import flip_rows
from .scans import BLOCK, decay_matrix, linear_scan
from .shapes import Bool, Float, Tensor

_KERNEL = 4
_LEAST_STEP, _GREATEST_STEP = 1e-3, 1e-1


def scan_states(
    x: Float[Tensor, "batch length heads head_dim"],
    step: Float[Tensor, "batch length heads"],
    rate: Float[Tensor, " heads"],
    write: Float[Tensor, "batch length state"],
    read: Float[Tensor, "batch length state"],
) -> Float[Tensor, "batch length heads head_dim"]:
    """Run the recurrence ``h_t = exp(step_t rate) h_{t-1} + step_t write_t x_t^T``, ``y_t = read_t^T h_t``, from h = 0.

    Block by block as matrix products (Dao and Gu, 2024, arXiv 2405.21060, section 6). All decays are exponentials of
    sums of non-positive numbers, never of differences: nothing overflows or cancels.

    Args:
        x: What is written.
        step: Length of each time step, not negative.
        rate: Negative, one number per head.
        write: B of the paper, shared by the heads.
        read: C of the paper, shared by the heads.
    """
    batch, length, heads, width = x.shape

    def blocks(values: Tensor) -> Tensor:
        filled = F.pad(values, (0, 0) * (values.dim() - 2) + (0, -length % BLOCK))
        return filled.unflatten(1, (-1, BLOCK))

    written, write, read = blocks(x * step[..., None]), blocks(write), blocks(read)
    log_decay = blocks(step * rate).transpose(-1, -2)  # [batch, blocks, heads, q]
    decay = decay_matrix(log_decay)
    inside = torch.einsum("bcqs,bchqs,bcshp->bcqhp", read @ write.transpose(-1, -2), decay, written)

    added = torch.einsum("bcqn,bchq,bcqhp->bhcnp", write, decay[..., -1, :], written)
    log_kept = log_decay.sum(-1).transpose(1, 2).flatten(0, 1)
    at_end = linear_scan(log_kept, added.flatten(0, 1).flatten(2)).unflatten(0, (batch, heads))
    before = F.pad(at_end, (0, 0, 1, 0))[:, :, :-1].unflatten(-1, (-1, width))
    carried = torch.einsum("bcqn,bchq,bhcnp->bcqhp", read, log_decay.cumsum(-1).exp(), before)
    return (inside + carried).flatten(1, 2)[:, :length]


class StateSpaceMixer(nn.Module):
    """Mixes the positions of a row in both directions.

    As in Mamba-2: one projection gives gate, input, B, C and step; a short causal convolution; the recurrence; a gated
    norm; a projection back. Both directions have the same weights, the reverse one reads the row from its end, and the
    two are added before the norm, so that a reversed row gives the reversed output. With ``state_size = dim / 2``
    it has about the 4 dim^2 weights of the attention that it replaces.

    Args:
        dim: Width.
        num_heads: Heads; divides the width.
        state_size: N, columns of each head's state.
    """

    def __init__(self, dim: int, num_heads: int, state_size: int):
        super().__init__()
        self.num_heads = num_heads
        self.widths = (dim, dim + 2 * state_size, num_heads)
        self.state_size = state_size
        self.input = nn.Linear(dim, sum(self.widths), bias=False)
        self.kernel = nn.Parameter(torch.empty(self.widths[1], _KERNEL))
        self.kernel_bias = nn.Parameter(torch.empty(self.widths[1]))
        self.log_rate = nn.Parameter(torch.empty(num_heads))
        self.step_bias = nn.Parameter(torch.empty(num_heads))
        self.direct = nn.Parameter(torch.empty(num_heads))
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.output = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Mamba-2's starting values: rates drawn evenly from 1..16, steps from 0.001..0.1 on a log scale."""
        bound = _KERNEL**-0.5
        nn.init.uniform_(self.kernel, -bound, bound)
        nn.init.zeros_(self.kernel_bias)
        nn.init.ones_(self.direct)
        with torch.no_grad():
            self.log_rate.copy_(torch.empty_like(self.log_rate).uniform_(1, 16).log())
            span = math.log(_GREATEST_STEP / _LEAST_STEP)
            step = _LEAST_STEP * (torch.rand_like(self.step_bias) * span).exp()
            self.step_bias.copy_(step + (-(-step).expm1()).log())  # its softplus is the step

    def forward(
        self, hidden: Float[Tensor, "batch length dim"], is_valid: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        """Mix right-padded rows; padding neither matters nor means anything."""
        gate, mixed, step = self.input(hidden).split(self.widths, dim=-1)
        with torch.autocast(hidden.device.type, enabled=False):
            exact = torch.promote_types(hidden.dtype, torch.float32)
            # Padding may hold anything, NaN too: it must not enter a sum even with weight 0.
            mixed = mixed.to(exact).masked_fill(~is_valid[..., None], 0.0)
            step = F.softplus(step.to(exact) + self.step_bias.to(exact)).masked_fill(~is_valid[..., None], 0.0)
            forward = self._one_direction(mixed, step)
            reverse = self._one_direction(flip_rows(mixed, is_valid), flip_rows(step, is_valid))
            joined = forward + flip_rows(reverse, is_valid)
            normed = self.norm((joined * F.silu(gate.to(exact))).to(self.norm.weight.dtype))
        return self.output(normed.to(hidden.dtype))

    def _one_direction(
        self, mixed: Float[Tensor, "batch length channels"], step: Float[Tensor, "batch length heads"]
    ) -> Float[Tensor, "batch length dim"]:
        """From left to right."""
        past = F.pad(mixed.transpose(1, 2), (_KERNEL - 1, 0))
        kernel = self.kernel.to(mixed.dtype)[:, None]
        mixed = F.silu(F.conv1d(past, kernel, self.kernel_bias.to(mixed.dtype), groups=len(kernel))).transpose(1, 2)
        x, write, read = mixed.split((self.widths[0], self.state_size, self.state_size), dim=-1)
        x = x.unflatten(-1, (self.num_heads, -1))
        rate = -self.log_rate.to(mixed.dtype).exp()
        seen = scan_states(x, step, rate, write, read)
        return (seen + self.direct.to(mixed.dtype)[:, None] * x).flatten(-2)
