"""The CUDA path of the whole model against the CPU, which is the reference."""

import pytest
import torch

from tests.builders import random_dna, tiny_model

pytestmark = pytest.mark.gpu


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    input_ids = torch.nn.functional.pad(random_dna(500, torch.Generator().manual_seed(0), 3), (0, 12), value=4)
    labels = torch.full_like(input_ids, -100)
    labels[:, 40:46], input_ids[:, 40:46] = input_ids[:, 40:46], 3
    return input_ids, labels


def run(device: str, **options):
    model = tiny_model(spread=0.05, d_model=64).to(device).train()
    input_ids, labels = (tensor.to(device) for tensor in batch())
    output = model(input_ids, labels=labels, **options)
    output.loss.backward()
    gradient = torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters()])
    return output, gradient


@pytest.mark.parametrize("options", [{}, {"strands": "both"}, {"anchors": True}, {"on_grid": True}], ids=str)
def test_cuda_equals_cpu_in_float32(options):
    here, gradient_here = run("cpu", **options)
    there, gradient_there = run("cuda", **options)
    for stage, other in zip(here.stages, there.stages, strict=True):
        assert torch.equal(stage.is_boundary, other.is_boundary.cpu())
    assert (here.logits - there.logits.cpu()).abs().max() < 1e-3
    assert (gradient_here - gradient_there).abs().max() < 1e-3 * gradient_here.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_on_cuda(dtype):
    model = tiny_model(spread=0.05, d_model=64).cuda().train()
    input_ids, labels = (tensor.cuda() for tensor in batch())
    with torch.autocast("cuda", dtype):
        output = model(input_ids, labels=labels)
    output.loss.backward()
    assert output.logits.dtype == torch.float32
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
