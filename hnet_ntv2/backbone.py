"""The layers: NTv2's block over packed rows of chunks (the trunk), and the local blocks of encoder and decoder."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import RowLayout, apply_rotary, attend_rows, attend_window, rotary_cos_sin
from .shapes import Bool, Float, Tensor

Rotary = tuple[Tensor, Tensor]


class TrunkOutput(NamedTuple):
    """What the trunk computes over packed rows.

    Attributes:
        last_hidden_state: After the final norm, [total, dim].
        hidden_states: Input of block 0, then the output of every block (before the final norm); None unless asked for.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None


class _Projections(nn.Module):
    """Query, key and value of an NTv2 block; the names are those of the published files."""

    def __init__(self, dim: int):
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)


class _Dense(nn.Module):
    """One matrix under the published name ``dense``."""

    def __init__(self, in_dim: int, out_dim: int, bias: bool):
        super().__init__()
        self.dense = nn.Linear(in_dim, out_dim, bias=bias)

    def forward(self, hidden: Float[Tensor, "*shape in_dim"]) -> Float[Tensor, "*shape out_dim"]:
        return self.dense(hidden)


class _GatedUnit(_Dense):
    """``silu(first half) * second half`` of one fused matrix."""

    def forward(self, hidden: Float[Tensor, "*shape in_dim"]) -> Float[Tensor, "*shape width"]:
        # One matrix for both, as in the published files: the first half of its rows is the gate.
        gate, linear = self.dense(hidden).chunk(2, dim=-1)
        return F.silu(gate) * linear


class NTv2Attention(nn.Module):
    """Attention branch of an NTv2 block, its norm included, without the residual sum."""

    def __init__(self, dim: int, num_heads: int, layer_norm_eps: float):
        super().__init__()
        self.num_heads = num_heads
        self.self = _Projections(dim)
        self.output = _Dense(dim, dim, bias=True)
        self.LayerNorm = nn.LayerNorm(dim, eps=layer_norm_eps)

    def forward(
        self, hidden: Float[Tensor, "total dim"], rotary: Rotary, layout: RowLayout
    ) -> Float[Tensor, "total dim"]:
        normed = self.LayerNorm(hidden)
        query, key, value = (
            project(normed).unflatten(-1, (self.num_heads, -1))
            for project in (self.self.query, self.self.key, self.self.value)
        )
        attended = attend_rows(apply_rotary(query, *rotary), apply_rotary(key, *rotary), value, layout)
        return self.output(attended.flatten(-2))


class NTv2Block(GradientCheckpointingLayer):
    """One pre-LN block of Nucleotide Transformer v2: rotary attention with biases, SwiGLU without.

    ``h = x + Wo attn(LN(x)) + bo``, then ``h + W2 (silu(u[:F]) * u[F:])`` with ``u = W1 LN(h)``. Parameter names are
    the published ones below ``esm.encoder.layer.{i}.``.

    Args:
        dim: Width; a multiple of twice the number of heads.
        num_heads: Attention heads.
        intermediate_size: F, half the rows of the fused matrix.
        layer_norm_eps: From the source model's config; it is not the same in all of them.
    """

    def __init__(self, dim: int, num_heads: int, intermediate_size: int, layer_norm_eps: float):
        super().__init__()
        self.attention = NTv2Attention(dim, num_heads, layer_norm_eps)
        self.intermediate = _GatedUnit(dim, 2 * intermediate_size, bias=False)
        self.output = _Dense(intermediate_size, dim, bias=False)
        self.LayerNorm = nn.LayerNorm(dim, eps=layer_norm_eps)

    def forward(
        self, hidden: Float[Tensor, "total dim"], rotary: Rotary, layout: RowLayout
    ) -> Float[Tensor, "total dim"]:
        hidden = hidden + self.attention(hidden, rotary, layout)
        return hidden + self.output(self.intermediate(self.LayerNorm(hidden)))


class Trunk(nn.Module):
    """NTv2 blocks and the final norm over packed rows.

    Args:
        dim: Width.
        num_heads: Attention heads.
        intermediate_size: F, half the rows of each block's fused matrix.
        num_blocks: Depth.
        layer_norm_eps: Of every norm.
        rope_theta: Rotary base.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        intermediate_size: int,
        num_blocks: int,
        layer_norm_eps: float,
        rope_theta: float = 10000.0,
    ):
        super().__init__()
        self.head_dim = dim // num_heads
        self.rope_theta = rope_theta
        self.blocks = nn.ModuleList(
            NTv2Block(dim, num_heads, intermediate_size, layer_norm_eps) for _ in range(num_blocks)
        )
        self.final_norm = nn.LayerNorm(dim, eps=layer_norm_eps)

    def forward(
        self,
        hidden: Float[Tensor, "total dim"],
        positions: Float[Tensor, " total"],
        layout: RowLayout,
        output_hidden_states: bool = False,
    ) -> TrunkOutput:
        """Run all rows through all blocks.

        Args:
            hidden: Packed rows.
            positions: Rotary position of each entry, fractions allowed.
            layout: Where the rows lie.
            output_hidden_states: Also return the state before each block and after the last.
        """
        rotary = rotary_cos_sin(positions, self.head_dim, self.rope_theta)
        return run_blocks(self.blocks, self.final_norm, hidden, rotary, layout, output_hidden_states)


def run_blocks(
    blocks: Iterable[nn.Module],
    final_norm: nn.Module,
    hidden: Float[Tensor, "total dim"],
    rotary: Rotary,
    layout: RowLayout,
    output_hidden_states: bool = False,
) -> TrunkOutput:
    """NTv2 blocks one after the other, then the final norm."""
    states = [hidden]
    for block in blocks:
        hidden = block(hidden, rotary, layout)
        if output_hidden_states:
            states.append(hidden)
    return TrunkOutput(final_norm(hidden), tuple(states) if output_hidden_states else None)


class LocalBlock(GradientCheckpointingLayer):
    """Pre-LN block of encoder and decoder: windowed attention with rotary, then a plain GELU MLP.

    Args:
        dim: Width; a multiple of twice the number of heads.
        num_heads: Attention heads.
        mlp_width: Hidden width of the MLP.
        window: Positions seen on each side.
        layer_norm_eps: Of both norms.
    """

    def __init__(self, dim: int, num_heads: int, mlp_width: int, window: int, layer_norm_eps: float):
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.attention_norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.attention_output = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.mlp_input = nn.Linear(dim, mlp_width)
        self.mlp_output = nn.Linear(mlp_width, dim)

    def forward(
        self, hidden: Float[Tensor, "batch length dim"], rotary: Rotary, is_valid: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        projected = self.query_key_value(self.attention_norm(hidden)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = projected.unbind(dim=2)
        attended = attend_window(apply_rotary(query, *rotary), apply_rotary(key, *rotary), value, is_valid, self.window)
        hidden = hidden + self.attention_output(attended.flatten(-2))
        return hidden + self.mlp_output(F.gelu(self.mlp_input(self.mlp_norm(hidden))))

    def zero_output_projections(self) -> None:
        """Make the block the identity: both branches end in a zero matrix and a zero bias."""
        for layer in (self.attention_output, self.mlp_output):
            # Without the mark, transformers' post_init would draw these weights again.
            layer.starts_at_zero = True  # pyright: ignore[reportArgumentType]  (a plain attribute)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


class LocalLayers(nn.Module):
    """A run of local blocks; without any it is the identity.

    Args:
        num_layers: How many blocks.
        dim: Width.
        num_heads: Attention heads.
        mlp_width: Hidden width of each MLP.
        window: Positions seen on each side.
        layer_norm_eps: Of every norm.
        rope_theta: Rotary base.
    """

    def __init__(
        self,
        num_layers: int,
        dim: int,
        num_heads: int,
        mlp_width: int,
        window: int,
        layer_norm_eps: float,
        rope_theta: float = 10000.0,
    ):
        super().__init__()
        self.head_dim = dim // num_heads
        self.rope_theta = rope_theta
        self.blocks = nn.ModuleList(
            LocalBlock(dim, num_heads, mlp_width, window, layer_norm_eps) for _ in range(num_layers)
        )

    def forward(
        self, hidden: Float[Tensor, "batch length dim"], is_valid: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        if len(self.blocks) == 0:
            return hidden
        # float32 whatever the weights are: bfloat16 cannot tell positions over 256 apart.
        positions = torch.arange(hidden.shape[1], device=hidden.device, dtype=torch.float32)
        rotary = rotary_cos_sin(positions, self.head_dim, self.rope_theta)
        for block in self.blocks:
            hidden = block(hidden, rotary, is_valid)
        return hidden
