"""Smoothing against a loop, its gradients, its precision; confidence and weights of forced boundaries."""

import pytest
import torch

from hnet_ntv2.chunking import locate_chunks
from hnet_ntv2.levels import BoundaryReason, Chunking
from hnet_ntv2.upsampling import Upsampler, boundary_weights, confidence, smooth
from tests.oracles import smooth_row


def chunks_and_weights(count: int, seed: int = 0, dim: int = 3):
    generator = torch.Generator().manual_seed(seed)
    chunks = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    weight = torch.rand(count, generator=generator, dtype=torch.float64).clamp(1e-4, 1 - 1e-4)
    weight[torch.rand(count, generator=generator) < 0.2] = 1.0  # forced boundaries
    weight[0] = 1 - 1e-4
    return chunks, weight


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 64, 100, 1025])
def test_smoothing_equals_the_loop_forward_and_backward(count):
    chunks, weight = chunks_and_weights(count)
    results = []
    for run in (lambda z, p: smooth(z[None], p[None], torch.ones(1, count, dtype=torch.bool))[0], smooth_row):
        z, p = chunks.clone().requires_grad_(), weight.clone().requires_grad_()
        out = run(z, p)
        (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape)).sum().backward()
        results.append((out.detach(), z.grad, p.grad))
    (fast, fast_z, fast_p), (slow, slow_z, slow_p) = results
    assert (fast - slow).abs().max() < 1e-12
    assert (fast_z - slow_z).abs().max() < 1e-11
    free = weight < 1  # forced weights are constants: their gradient is defined as zero
    assert (fast_p - slow_p)[free].abs().max() < 1e-8 * max(1.0, float(slow_p.abs().max()))


@pytest.mark.parametrize("extreme", [1e-4, 1 - 1e-4, 1.0])
def test_extreme_weights_stay_exact_in_float32(extreme):
    chunks, _ = chunks_and_weights(2500)
    weight = torch.full((2500,), extreme, dtype=torch.float64)
    fast = smooth(chunks.float()[None], weight.float()[None], torch.ones(1, 2500, dtype=torch.bool))[0]
    assert (fast.double() - smooth_row(chunks, weight)).abs().max() < 1e-4


def test_rows_of_different_length_do_not_mix():
    lengths = [40, 1, 7]
    rows = [chunks_and_weights(length, seed) for seed, length in enumerate(lengths)]
    chunks = torch.full((3, 40, 3), float("nan"), dtype=torch.float64)
    weight = torch.ones(3, 40, dtype=torch.float64)
    for row, (z, p) in enumerate(rows):
        chunks[row, : len(z)], weight[row, : len(z)] = z, p
    has_chunk = torch.arange(40) < torch.tensor(lengths)[:, None]
    out = smooth(chunks, weight, has_chunk)
    for row, (z, p) in enumerate(rows):
        assert (out[row, : len(z)] - smooth_row(z, p)).abs().max() < 1e-12


def test_reversing_chunks_and_inner_boundaries_reverses_the_result():
    chunks, weight = chunks_and_weights(50)
    weight[0] = 1.0
    everything = torch.ones(1, 50, dtype=torch.bool)
    mirrored = torch.cat([weight[:1], weight[1:].flip(0)])
    there = smooth(chunks.flip(0)[None], mirrored[None], everything)[0].flip(0)
    assert (there - smooth(chunks[None], weight[None], everything)[0]).abs().max() < 1e-12


def test_the_scan_runs_in_float32_whatever_autocast_says():
    chunks, weight = chunks_and_weights(300)
    everything = torch.ones(1, 300, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        out = smooth(chunks.bfloat16()[None], weight.float()[None], everything)
    assert out.dtype == torch.float32
    assert (out[0].double() - smooth_row(chunks.bfloat16().double(), weight)).abs().max() < 1e-5


def chunking_of(reasons: list[int], boundaries: list[bool], probabilities: list[float]) -> Chunking:
    probability = torch.tensor([probabilities], requires_grad=True)
    reason = torch.tensor([reasons], dtype=torch.int8)
    is_boundary = torch.tensor([boundaries])
    everything = torch.ones_like(is_boundary)
    first, has_chunk, chunk_of = locate_chunks(is_boundary, everything)
    is_free, base = reason == BoundaryReason.ROUTER, torch.arange(len(reasons))[None]
    return Chunking(probability, is_boundary, reason, is_free, is_free, everything, base, chunk_of, first, has_chunk)


CHUNKING = {
    "reasons": [BoundaryReason.ROW_START, *[BoundaryReason.ROUTER] * 2, BoundaryReason.MASK, BoundaryReason.CAP],
    "boundaries": [True, True, False, True, True],
    "probabilities": [1.0, 0.8, 0.3, 0.2, 0.1],
}


def test_forced_boundaries_have_weight_one_and_the_row_start_keeps_its_clamp():
    decided = chunking_of(**CHUNKING)
    assert torch.allclose(boundary_weights(decided), torch.tensor([[1 - 1e-4, 0.8, 1.0, 1.0]]))


def test_confidence_is_one_and_passes_its_gradient_only_where_the_router_chose():
    decided = chunking_of(**CHUNKING)
    value = confidence(decided)
    assert torch.equal(value, torch.ones(1, 5))
    value.sum().backward()
    assert decided.probability.grad.tolist() == [[1, 1, -1, 0, 0]]


def test_offsets_count_from_the_chunks_first_position():
    upsampler = Upsampler(1, num_offsets=3, use_smoothing=False)
    torch.nn.init.zeros_(upsampler.skip.weight)
    torch.nn.init.zeros_(upsampler.skip.bias)
    upsampler.offset.weight.data = torch.tensor([[0.0], [1.0], [2.0]])
    boundaries = [True, False, False, False, False, True, False]
    decided = chunking_of([0] * 7, boundaries, [0.9] * 7)
    everything = torch.ones(1, 7, dtype=torch.bool)
    out = upsampler(torch.zeros(1, 2, 1), torch.zeros(1, 7, 1), decided, everything)
    assert out[0, :, 0].tolist() == [0, 1, 2, 2, 2, 0, 1]  # beyond the table the last offset stays
