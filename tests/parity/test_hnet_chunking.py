"""Router, smoothing, upsampling and ratio loss against arrays computed with the official H-Net code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hnet_ntv2.chunking import (
    Router,
    pool_chunks,
)
from hnet_ntv2.ratio_control import ratio_loss
from hnet_ntv2.upsampling import Upsampler, boundary_weights, confidence, smooth, smooth_forward
from tests.builders import free_level

ARRAYS = np.load(Path(__file__).parents[1] / "data" / "hnet_chunking" / "expected.npz")
# float64 must agree to 1e-10, float32 to 1e-5 forward and 1e-4 in gradients.
FORWARD = {torch.float64: 1e-10, torch.float32: 1e-5}
GRADIENT = {torch.float64: 1e-10, torch.float32: 1e-4}
DTYPES = [torch.float64, torch.float32]


def array(name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
    tensor = torch.from_numpy(ARRAYS[name])
    return tensor if dtype is None else tensor.to(dtype)


def assert_equals(actual: torch.Tensor, name: str, tolerance: float, where: torch.Tensor | None = None) -> None:
    expected = array(name, torch.float64)
    actual = actual.detach().double()
    if where is not None:
        actual, expected = actual[where], expected[where]
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance, name


class Pipeline:
    """The reference's whole path with this package's parts; the main network is a stand-in."""

    def __init__(self, dtype: torch.dtype, mirrored: bool, identity_main: bool = False):
        self.hidden = array("hidden", dtype).requires_grad_()
        self.mask = array("mask")
        self.router = Router(32).to(dtype)
        self.upsampler = Upsampler(32).to(dtype)
        with torch.no_grad():
            self.router.query.weight.copy_(array("W_q"))
            self.router.key.weight.copy_(array("W_k"))
            self.upsampler.skip.weight.copy_(array("W_res"))
            self.upsampler.skip.bias.copy_(array("b_res"))
        self.chunking = self.router(free_level(self.mask, self.hidden))
        self.probability = self.chunking.probability
        self.probability.retain_grad()
        self.pooled = pool_chunks(self.hidden, self.chunking)
        self.chunks = array("chunk_vectors", dtype).requires_grad_()
        main = self.pooled if identity_main else self.chunks
        if mirrored:
            self.out = self.upsampler(main, self.hidden, self.chunking, self.mask)
        else:
            self.out = self._forward_smoothing_only(main)
        self.loss = (self.out * array("loss_weights", dtype)).sum()

    def _forward_smoothing_only(self, main: torch.Tensor) -> torch.Tensor:
        weight = boundary_weights(self.chunking)
        self.smoothed = smooth_forward(main * self.chunking.has_chunk[..., None], weight)
        expanded = self.smoothed.gather(1, self.chunking.chunk_of[..., None].expand(-1, -1, 32))
        self.expanded = expanded * confidence(self.chunking)[..., None] * self.mask[..., None]
        return self.expanded + self.upsampler.skip(self.hidden) * self.mask[..., None]


@pytest.mark.parametrize("dtype", DTYPES)
def test_router_and_chunks_equal_the_reference(dtype):
    run = Pipeline(dtype, mirrored=False)
    expected = array("boundary_prob", torch.float64)[..., 1]
    assert (run.probability.detach().double() - expected)[run.mask].abs().max() <= FORWARD[dtype]
    assert torch.equal(run.chunking.is_boundary, array("boundary_mask"))
    assert torch.equal(run.chunking.has_chunk, array("chunk_mask"))
    assert torch.equal(run.chunking.first.masked_fill(~run.chunking.has_chunk, -1), array("chunk_positions"))
    assert torch.equal(run.chunking.chunk_of.masked_fill(~run.mask, -1), array("chunk_index"))
    if dtype == torch.float32:
        assert torch.equal(run.pooled, array("chunk_states"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_upsampling_equals_the_reference_forward_and_backward(dtype):
    run = Pipeline(dtype, mirrored=False)
    run.loss.backward()
    has_chunk = array("chunk_mask")
    assert_equals(boundary_weights(run.chunking), "chunk_P", FORWARD[dtype], has_chunk)
    assert_equals(run.smoothed, "smoothed", FORWARD[dtype], has_chunk)
    assert_equals(run.expanded, "dechunk_out", FORWARD[dtype])
    assert_equals(run.out, "out", FORWARD[dtype])
    assert abs(run.loss.item() - float(ARRAYS["loss"])) <= 100 * FORWARD[dtype]
    assert_equals(run.hidden.grad, "grad_hidden", GRADIENT[dtype])
    assert_equals(run.router.query.weight.grad, "grad_W_q", GRADIENT[dtype])
    assert_equals(run.router.key.weight.grad, "grad_W_k", GRADIENT[dtype])
    assert_equals(run.upsampler.skip.weight.grad, "grad_W_res", GRADIENT[dtype])
    assert_equals(run.upsampler.skip.bias.grad, "grad_b_res", GRADIENT[dtype])
    assert_equals(run.chunks.grad, "grad_chunk_vectors", GRADIENT[dtype])
    assert_equals(run.probability.grad, "grad_p", GRADIENT[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_mirrored_smoothing_equals_the_reference_forward_and_backward(dtype):
    run = Pipeline(dtype, mirrored=True)
    run.loss.backward()
    weight = boundary_weights(run.chunking)
    assert_equals(
        smooth(run.chunks, weight, run.chunking.has_chunk), "mirror_smoothed", FORWARD[dtype], array("chunk_mask")
    )
    assert_equals(run.out, "mirror_out", FORWARD[dtype])
    assert_equals(run.hidden.grad, "mirror_grad_hidden", GRADIENT[dtype])
    assert_equals(run.router.query.weight.grad, "mirror_grad_W_q", GRADIENT[dtype])
    assert_equals(run.router.key.weight.grad, "mirror_grad_W_k", GRADIENT[dtype])
    assert_equals(run.chunks.grad, "mirror_grad_chunk_vectors", GRADIENT[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_identity_main_network_equals_the_reference(dtype):
    run = Pipeline(dtype, mirrored=False, identity_main=True)
    run.loss.backward()
    assert_equals(run.out, "idmain_out", FORWARD[dtype])
    assert_equals(run.hidden.grad, "idmain_grad_hidden", GRADIENT[dtype])
    assert_equals(run.router.query.weight.grad, "idmain_grad_W_q", GRADIENT[dtype])
    assert_equals(run.router.key.weight.grad, "idmain_grad_W_k", GRADIENT[dtype])


def test_ratio_loss_and_its_gradient_equal_the_reference():
    run = Pipeline(torch.float64, mirrored=False)
    share = run.chunking.is_boundary[run.mask].double().mean()
    mean = run.probability[run.mask].mean()
    losses = [ratio_loss(share, mean, 1 / float(n)) for n in ARRAYS["ratio_N"]]
    np.testing.assert_allclose([loss.item() for loss in losses], ARRAYS["ratio_loss"], atol=1e-10, rtol=0)
    losses[0].backward()
    assert_equals(run.hidden.grad, "ratio_grad_hidden", 1e-10)
    assert_equals(run.router.query.weight.grad, "ratio_grad_W_q", 1e-10)
    assert_equals(run.router.key.weight.grad, "ratio_grad_W_k", 1e-10)


def test_ties_and_zero_vectors_are_no_boundaries():
    hidden = array("tie_hidden")
    mask = torch.ones(hidden.shape[:2], dtype=torch.bool)
    chunking = Router(4)(free_level(mask, hidden))
    assert torch.equal(chunking.probability, array("tie_boundary_prob")[..., 1])
    assert torch.equal(chunking.is_boundary, array("tie_boundary_mask"))
