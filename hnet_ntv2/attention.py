"""Rotary positions and the two attentions: global over ragged rows (trunk), sliding window over bases (local layers).

Rows of different lengths stay packed one after the other, so that no linear layer ever works on padding. Optional
kernels are chosen by ``select_row_attention`` alone; the CPU path always works and is the reference.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .shapes import Bool, Float, Int, Tensor

# Many short rows are faster as one padded product than row by row (measured on a CPU, forward and backward: 1.9 times
# at 64 rows of 40, equal at 16 rows of 77, 1.3 times slower from rows of 150 on).
_MANY_ROWS = 16
_SHORT_ROW = 64


class RowLayout(NamedTuple):
    """Where each row lies in a packed array: row i is ``packed[offsets[i] : offsets[i + 1]]``.

    Attributes:
        lengths: Length of each row, on the host; zero is allowed.
        offsets: The running sum of the lengths, starting with 0, on the device of the data (int32, one more than rows).
    """

    lengths: tuple[int, ...]
    offsets: Int[Tensor, " rows_plus_1"]

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device | str | None = None) -> "RowLayout":
        """Lay out rows of these lengths."""
        running = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
        return cls(tuple(int(length) for length in lengths), running.to(device=device, dtype=torch.int32))

    @property
    def total(self) -> int:
        """Positions in all rows."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Length of the longest row, 0 without rows."""
        return max(self.lengths, default=0)


RowAttention = Callable[[Tensor, Tensor, Tensor, RowLayout], Tensor]


def rotary_cos_sin(
    positions: Float[Tensor, "*shape"], head_dim: int, theta: float = 10000.0
) -> tuple[Float[Tensor, "*shape half_head_dim"], Float[Tensor, "*shape half_head_dim"]]:
    """Cosine and sine of the rotary angles (Su et al., arXiv 2104.09864), one per pair of coordinates.

    Angle j of position t is ``t * theta ** (-2j / head_dim)``. Positions may be fractions. Angles are formed in float64
    where the device has it: at base 131,072 a float32 angle is off by 0.008, and relative positions would drift.

    Returns:
        float32, whatever autocast is on (float64 for float64 positions).
    """
    exact = torch.float32 if positions.device.type == "mps" else torch.float64
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=exact) / head_dim
    angles = positions.to(exact)[..., None] * theta**-exponents
    result = torch.promote_types(positions.dtype, torch.float32)
    return angles.cos().to(result), angles.sin().to(result)


def apply_rotary(
    x: Float[Tensor, "*batch length heads head_dim"],
    cos: Float[Tensor, "*#batch length half_head_dim"],
    sin: Float[Tensor, "*#batch length half_head_dim"],
) -> Float[Tensor, "*batch length heads head_dim"]:
    """Turn coordinate j together with coordinate ``j + head_dim / 2`` (split halves), in float32 at least."""
    first, second = x.to(torch.promote_types(x.dtype, cos.dtype)).chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def pack_rows(
    padded: Float[Tensor, "batch length dim"], is_valid: Bool[Tensor, "batch length"]
) -> tuple[Float[Tensor, "total dim"], RowLayout]:
    """Keep the valid positions, row after row."""
    counts = is_valid.sum(dim=1)
    offsets = F.pad(counts.cumsum(0), (1, 0)).to(torch.int32)  # where the data are: only the lengths go to the host
    return padded[is_valid], RowLayout(tuple(counts.tolist()), offsets)


def unpack_rows(
    packed: Float[Tensor, "total dim"], is_valid: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch length dim"]:
    """Inverse of ``pack_rows``; zeros where a position is not valid."""
    padded = packed.new_zeros(*is_valid.shape, packed.shape[-1])
    return padded.masked_scatter(is_valid.unsqueeze(-1), packed)


@torch.compiler.disable()
def attend_rows(
    query: Float[Tensor, "total heads head_dim"],
    key: Float[Tensor, "total heads head_dim"],
    value: Float[Tensor, "total heads head_dim"],
    layout: RowLayout,
) -> Float[Tensor, "total heads head_dim"]:
    """Bidirectional attention of every position to all positions of its own row.

    Left out of compiled graphs: the lengths are data, and each new set of lengths would compile another graph.
    """
    kernel = select_row_attention(query.device.type, query.dtype, query.shape[-1], layout)
    return kernel(query, key, value, layout)


def select_row_attention(device_type: str, dtype: torch.dtype, head_dim: int, layout: RowLayout) -> RowAttention:
    """The fastest kernel that device, dtype, head width and rows allow. No other function chooses kernels."""
    if device_type == "cuda":
        fits_flash = dtype in (torch.float16, torch.bfloat16) and head_dim % 8 == 0 and head_dim <= 256
        return _attend_varlen if fits_flash and torch.cuda.get_device_capability() >= (8, 0) else _attend_padded
    if len(layout.lengths) >= _MANY_ROWS and layout.longest <= _SHORT_ROW:
        return _attend_padded
    return _attend_each_row


def _attend_each_row(query: Tensor, key: Tensor, value: Tensor, layout: RowLayout) -> Tensor:
    """One fused attention per row: no product is spent on padding."""
    rows = zip(*(packed.split(layout.lengths) for packed in (query, key, value)), strict=True)
    attended = [
        F.scaled_dot_product_attention(*(part.transpose(0, 1).unsqueeze(0) for part in row))[0].transpose(0, 1)
        for row in rows
        if row[0].shape[0] > 0
    ]
    return torch.cat(attended) if attended else value


def _attend_padded(query: Tensor, key: Tensor, value: Tensor, layout: RowLayout) -> Tensor:
    """All rows padded to the longest, one masked product."""
    num_rows, longest = len(layout.lengths), layout.longest
    if layout.total == 0:
        return value
    row_lengths = layout.offsets.diff()
    is_valid = torch.arange(longest, device=query.device) < row_lengths[:, None]
    row_start = torch.arange(num_rows, device=query.device) * longest - layout.offsets[:-1]
    index = torch.arange(layout.total, device=query.device)
    index = index + torch.repeat_interleave(row_start, row_lengths, output_size=layout.total)

    def pad(packed: Tensor) -> Tensor:
        flat = packed.new_zeros(num_rows * longest, *packed.shape[1:]).index_copy(0, index, packed)
        return flat.view(num_rows, longest, *packed.shape[1:]).transpose(1, 2)

    # The first key of an empty row stays visible to its padding, so that no softmax is taken over nothing.
    is_visible = is_valid | (torch.arange(longest, device=query.device) == 0)
    attended = _attend_masked(pad(query), pad(key), pad(value), is_visible[:, None, None])
    return attended.transpose(1, 2).reshape(-1, *query.shape[1:])[index]


def _attend_masked(query: Tensor, key: Tensor, value: Tensor, is_visible: Tensor) -> Tensor:
    """Masked attention over [batch, heads, length, head_dim]; on a CPU written out, which is faster for short rows."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=is_visible)
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    weights = scores.masked_fill(~is_visible, float("-inf")).softmax(dim=-1)
    return torch.matmul(weights.to(value.dtype), value)


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, layout: RowLayout) -> Tensor:
    """Packed flash attention as torch ships it (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    if layout.total == 0:
        return value
    offsets, longest = layout.offsets, layout.longest
    attended = varlen_attn(query.contiguous(), key.contiguous(), value.contiguous(), offsets, offsets, longest, longest)
    assert isinstance(attended, Tensor)
    return attended


def attend_window(
    query: Float[Tensor, "batch length heads head_dim"],
    key: Float[Tensor, "batch length heads head_dim"],
    value: Float[Tensor, "batch length heads head_dim"],
    is_valid: Bool[Tensor, "batch length"],
    window: int,
) -> Float[Tensor, "batch length heads head_dim"]:
    """Attention of position i to the valid positions j with ``|i - j| <= window``, in time and memory linear in length.

    The length is cut into blocks of ``window`` queries, each of which sees the block before, its own and the one after
    (3 x window keys, minus what lies beyond the band). Blocks are folded into the batch. A position that is not valid
    also sees itself: its output means nothing but is finite.
    """
    batch, length, heads, head_dim = query.shape
    if length <= window:
        is_visible = is_valid[:, None] | torch.eye(length, dtype=torch.bool, device=query.device)
        parts = (part.transpose(1, 2) for part in (query, key, value))
        attended = F.scaled_dot_product_attention(*parts, attn_mask=is_visible[:, None])
        return attended.transpose(1, 2)
    num_blocks = -(-length // window)
    tail = num_blocks * window - length
    folded_query = F.pad(query, (0, 0, 0, 0, 0, tail)).view(batch * num_blocks, window, heads, head_dim)
    attended = F.scaled_dot_product_attention(
        folded_query.transpose(1, 2),
        _fold_neighbours(key, window, num_blocks),
        _fold_neighbours(value, window, num_blocks),
        attn_mask=_window_mask(is_valid, window, num_blocks),
    )
    return attended.transpose(1, 2).reshape(batch, num_blocks * window, heads, head_dim)[:, :length]


def _fold_neighbours(x: Tensor, window: int, num_blocks: int) -> Tensor:
    """Each block with its neighbours: [batch, length, heads, dim] -> [batch x blocks, heads, 3 x window, dim]."""
    batch, length, heads, head_dim = x.shape
    padded = F.pad(x, (0, 0, 0, 0, window, (num_blocks + 1) * window - length))
    blocks = padded.view(batch, num_blocks + 2, window, heads, head_dim).transpose(2, 3)
    neighbours = torch.cat((blocks[:, :-2], blocks[:, 1:-1], blocks[:, 2:]), dim=3)
    return neighbours.view(batch * num_blocks, heads, 3 * window, head_dim)


def _window_mask(is_valid: Tensor, window: int, num_blocks: int) -> Tensor:
    """[batch x blocks, 1, window, 3 x window]: which keys each query of a block sees."""
    batch, length = is_valid.shape
    query_at = torch.arange(window, device=is_valid.device)[:, None]
    key_at = torch.arange(-window, 2 * window, device=is_valid.device)
    padded = F.pad(is_valid, (window, (num_blocks + 1) * window - length))
    key_is_valid = padded.unfold(1, 3 * window, window).reshape(batch * num_blocks, 1, 1, 3 * window)
    return ((query_at - key_at).abs() <= window) & (key_is_valid | (query_at == key_at))
