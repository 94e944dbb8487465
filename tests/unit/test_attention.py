"""Rotary, row attention and windowed attention against slow definitions."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hnet_ntv2 import attention
from hnet_ntv2.attention import (
    RowLayout,
    apply_rotary,
    attend_rows,
    attend_window,
    pack_rows,
    rotary_cos_sin,
    select_row_attention,
    unpack_rows,
)

HEADS, HEAD_DIM = 2, 16


def masked_attention(query, key, value, is_visible):
    """All pairs, [length, heads, dim] each; ``is_visible`` is [query, key]."""
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~is_visible, -torch.inf).softmax(dim=-1), value)


def window_oracle(query, key, value, is_valid, window):
    position = torch.arange(query.shape[1])
    in_band = (position[:, None] - position).abs() <= window
    rows = [
        masked_attention(q, k, v, in_band & (valid | torch.eye(len(valid), dtype=torch.bool)))
        for q, k, v, valid in zip(query, key, value, is_valid, strict=True)
    ]
    return torch.stack(rows)


def rows_oracle(query, key, value, lengths):
    rows = zip(*(part.split(lengths) for part in (query, key, value)), strict=True)
    return torch.cat([masked_attention(*row, torch.ones(len(row[0]), len(row[0]), dtype=torch.bool)) for row in rows])


def random_qkv(rng, *shape):
    return [torch.randn(*shape, HEADS, HEAD_DIM, generator=rng, requires_grad=True) for _ in range(3)]


def assert_same_with_gradients(got, expected, inputs, weight):
    torch.testing.assert_close(got * weight, expected * weight, rtol=0, atol=1e-5)
    gradients = torch.autograd.grad((got * weight).sum(), inputs)
    references = torch.autograd.grad((expected * weight).sum(), inputs)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [1, 7, 128])
@pytest.mark.parametrize("length", [1, 5, 127, 128, 129, 1000])
def test_window_equals_all_pairs_under_a_band_mask(rng, length, window):
    inputs = random_qkv(rng, 2, length)
    is_valid = torch.arange(length) < torch.tensor([[length], [length // 2]])
    weight = torch.randn(2, length, HEADS, HEAD_DIM, generator=rng) * is_valid[..., None, None]
    got, expected = attend_window(*inputs, is_valid, window), window_oracle(*inputs, is_valid, window)
    assert_same_with_gradients(got, expected, inputs, weight)


def test_window_takes_masks_with_holes(rng):
    inputs = random_qkv(rng, 3, 50)
    is_valid = torch.rand(3, 50, generator=rng) < 0.5
    got, expected = attend_window(*inputs, is_valid, 8), window_oracle(*inputs, is_valid, 8)
    assert_same_with_gradients(got, expected, inputs, torch.ones(3, 50, 1, 1))


@pytest.mark.parametrize("length", [6, 300])
def test_window_stays_finite_without_a_valid_key(rng, length):
    inputs = random_qkv(rng, 2, length)
    output = attend_window(*inputs, torch.zeros(2, length, dtype=torch.bool), 16)
    assert output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(output.sum(), inputs))


@torch.no_grad()
def test_window_moves_with_the_sequence(rng):
    inputs = random_qkv(rng, 1, 200)
    shifted = [torch.nn.functional.pad(part, (0, 0, 0, 0, 37, 0)) for part in inputs]
    is_valid = torch.ones(1, 200, dtype=torch.bool)
    there = attend_window(*shifted, torch.nn.functional.pad(is_valid, (37, 0)), 24)[:, 37:]
    torch.testing.assert_close(there, attend_window(*inputs, is_valid, 24), rtol=0, atol=1e-6)


@torch.no_grad()
def test_window_ignores_what_padding_holds(rng):
    query, key, value = random_qkv(rng, 1, 90)
    is_valid = torch.arange(90)[None] < 70
    clean = attend_window(query, key, value, is_valid, 16)[:, :70]
    key[:, 70:], value[:, 70:] = 1e3, -1e3
    torch.testing.assert_close(attend_window(query, key, value, is_valid, 16)[:, :70], clean, rtol=0, atol=0)


def window_flops(length: int) -> int:
    """Multiplications of the forward pass, from the shapes that the fused attention sees."""

    def cpu_attention(query, key, value, *args, out_val=None, **kwargs):
        batch, heads, queries, dim = query
        return 2 * 2 * batch * heads * queries * key[2] * dim

    name = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={name: cpu_attention})
    inputs = [torch.zeros(1, length, HEADS, HEAD_DIM) for _ in range(3)]
    with counter, torch.no_grad():
        attend_window(*inputs, torch.ones(1, length, dtype=torch.bool), 32)
    return counter.get_total_flops()


def test_window_costs_linearly_in_length():
    assert window_flops(512) == 4 * HEADS * HEAD_DIM * 512 * 3 * 32
    assert window_flops(4096) == 8 * window_flops(512)


LENGTHS = [(5,), (3, 0, 1, 20), (1, 1, 1), (0, 0, 4), tuple(range(20)), (40, 70, 300)]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kernel", [attention._attend_each_row, attention._attend_padded, attend_rows])
def test_rows_equal_all_pairs_inside_each_row(rng, lengths, kernel):
    inputs = random_qkv(rng, sum(lengths))
    layout = RowLayout.from_lengths(lengths)
    weight = torch.randn(sum(lengths), HEADS, HEAD_DIM, generator=rng)
    assert_same_with_gradients(kernel(*inputs, layout), rows_oracle(*inputs, lengths), inputs, weight)


@pytest.mark.parametrize("lengths", [(), (0,), (0, 0)], ids=str)
@pytest.mark.parametrize("kernel", [attention._attend_each_row, attention._attend_padded])
def test_rows_of_nothing_give_nothing(rng, lengths, kernel):
    inputs = random_qkv(rng, 0)
    output = kernel(*inputs, RowLayout.from_lengths(lengths))
    assert output.shape == (0, HEADS, HEAD_DIM)
    output.sum().backward()


def test_many_short_rows_are_padded_and_long_ones_are_not():
    def chosen(lengths):
        return select_row_attention("cpu", torch.float32, HEAD_DIM, RowLayout.from_lengths(lengths))

    assert chosen([40] * 32) is attention._attend_padded
    assert chosen([400] * 32) is attention._attend_each_row
    assert chosen([40]) is attention._attend_each_row


def test_kernel_on_cuda_follows_dtype_and_head_width(monkeypatch):
    layout = RowLayout.from_lengths([5])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert select_row_attention("cuda", torch.bfloat16, 64, layout) is attention._attend_varlen
    assert select_row_attention("cuda", torch.float32, 64, layout) is attention._attend_padded
    assert select_row_attention("cuda", torch.bfloat16, 12, layout) is attention._attend_padded
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert select_row_attention("cuda", torch.float16, 64, layout) is attention._attend_padded


def test_layout_states_lengths_and_offsets():
    layout = RowLayout.from_lengths([3, 0, 2])
    assert layout.lengths == (3, 0, 2)
    assert layout.offsets.tolist() == [0, 3, 3, 5]
    assert layout.offsets.dtype == torch.int32
    assert (layout.total, layout.longest) == (5, 3)


def test_pack_and_unpack_are_inverse_with_gradients(rng):
    padded = torch.randn(3, 7, 4, generator=rng, requires_grad=True)
    is_valid = torch.rand(3, 7, generator=rng) < 0.6
    is_valid[1] = False
    packed, layout = pack_rows(padded, is_valid)
    assert layout.lengths == tuple(is_valid.sum(dim=1).tolist())
    restored = unpack_rows(packed, is_valid)
    torch.testing.assert_close(restored, padded * is_valid[..., None], rtol=0, atol=0)
    restored.sum().backward()
    torch.testing.assert_close(padded.grad, is_valid[..., None].expand(3, 7, 4).float(), rtol=0, atol=0)


def test_rotary_depends_on_relative_positions_only(rng):
    query, key = torch.randn(2, 5, HEADS, HEAD_DIM, generator=rng)
    positions = torch.tensor([0.0, 0.5, 3.0, 7.25, 11.0])

    def scores(shift):
        cos, sin = rotary_cos_sin(positions + shift, HEAD_DIM)
        return torch.einsum("qhd,khd->hqk", apply_rotary(query, cos, sin), apply_rotary(key, cos, sin))

    torch.testing.assert_close(scores(0), scores(4096), rtol=0, atol=1e-5)
    torch.testing.assert_close(scores(0), scores(131_072), rtol=0, atol=1e-5)


def test_rotary_turns_split_halves_by_the_stated_angle(rng):
    x = torch.randn(1, 1, HEAD_DIM, generator=rng)
    cos, sin = rotary_cos_sin(torch.tensor([3.5]), HEAD_DIM, theta=100.0)
    turned = apply_rotary(x, cos, sin)
    for j in range(HEAD_DIM // 2):
        angle = 3.5 * 100.0 ** (-2 * j / HEAD_DIM)
        first, second = float(x[0, 0, j]), float(x[0, 0, j + HEAD_DIM // 2])
        assert float(turned[0, 0, j]) == pytest.approx(first * math.cos(angle) - second * math.sin(angle), abs=1e-5)
        expected = second * math.cos(angle) + first * math.sin(angle)
        assert float(turned[0, 0, j + HEAD_DIM // 2]) == pytest.approx(expected, abs=1e-5)


def test_rotary_at_position_zero_changes_nothing(rng):
    x = torch.randn(4, HEADS, HEAD_DIM, generator=rng)
    torch.testing.assert_close(apply_rotary(x, *rotary_cos_sin(torch.zeros(4), HEAD_DIM)), x, rtol=0, atol=0)


def test_rotary_is_float32_under_autocast_and_keeps_the_input_dtype(rng):
    x = torch.randn(4, HEADS, HEAD_DIM, generator=rng).bfloat16()
    positions = torch.full((4,), 1000.5)
    with torch.autocast("cpu", torch.bfloat16):
        cos, sin = rotary_cos_sin(positions, HEAD_DIM)
        turned = apply_rotary(x, cos, sin)
    assert cos.dtype == sin.dtype == torch.float32
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned, apply_rotary(x.float(), cos, sin).bfloat16(), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_on_cuda_equal_the_cpu(rng, dtype):
    lengths = (40, 0, 1, 300)
    inputs = random_qkv(rng, sum(lengths))
    weight = torch.randn(sum(lengths), HEADS, HEAD_DIM, generator=rng)
    on_cuda = [part.detach().to("cuda", dtype).requires_grad_() for part in inputs]
    layout = RowLayout.from_lengths(lengths, "cuda")
    expected = attention._attend_varlen if dtype == torch.bfloat16 else attention._attend_padded
    assert select_row_attention("cuda", dtype, HEAD_DIM, layout) is expected
    got, reference = attend_rows(*on_cuda, layout), attend_rows(*inputs, RowLayout.from_lengths(lengths))
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got.float().cpu(), reference, rtol=0, atol=tolerance)
    gradients = torch.autograd.grad((got * weight.to(got)).sum(), on_cuda)
    references = torch.autograd.grad((reference * weight).sum(), inputs)
    for gradient, expected_gradient in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient.float().cpu(), expected_gradient, rtol=0, atol=4 * tolerance)


@pytest.mark.gpu
def test_window_on_cuda_equals_the_cpu(rng):
    inputs = random_qkv(rng, 2, 300)
    is_valid = torch.arange(300) < torch.tensor([[300], [0]])
    got = attend_window(*(part.cuda() for part in inputs), is_valid.cuda(), 32)
    torch.testing.assert_close(got.cpu(), attend_window(*inputs, is_valid, 32), rtol=0, atol=1e-4)
