"""The task loss reaches both routers although every target sits in a forced chunk.

Relative gradient norm: norm of a router matrix's gradient over the median of the norms of all parameter tensors. Adam
divides each element by its own scale, so what matters is that the gradient is no rounding error of the rest.
"""

import pytest
import torch

from tests.builders import random_dna, tiny_model

LEAST = 1e-4
LAYOUT = {"d_model": 64, "n_head": 2, "intermediate_size": 256, "n_main_layer": 4}


def masked_batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    input_ids = random_dna(512, generator, batch=4)
    labels = torch.full_like(input_ids, -100)
    for start in range(10, 500, 40):
        labels[:, start : start + 6] = input_ids[:, start : start + 6]
        input_ids[:, start : start + 6] = 3
    return input_ids, labels


def relative_router_gradients(model) -> dict[str, float]:
    model.zero_grad()
    input_ids, labels = masked_batch()
    model.train()(input_ids, labels=labels).task_loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    typical = torch.stack([gradient.norm() for gradient in gradients.values()]).median()
    return {n: float(g.norm() / typical) for n, g in gradients.items() if ".router." in n}


def zero_residual_output(model) -> None:
    """As a graft starts: the source head alone speaks."""
    torch.nn.init.zeros_(model.head.residual.output.weight)


@pytest.mark.parametrize("seed", range(3))
def test_task_gradient_reaches_both_routers_of_a_random_model(seed):
    relative = relative_router_gradients(tiny_model(seed=seed, **LAYOUT))
    assert len(relative) == 4
    assert min(relative.values()) > LEAST, relative


def test_task_gradient_reaches_both_routers_one_step_after_a_zero_residual_head():
    model = tiny_model(**LAYOUT)
    zero_residual_output(model)
    before = relative_router_gradients(model)
    assert max(before.values()) == 0  # the targets' own chunks are forced: without the decoders nothing arrives
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.step()
    after = relative_router_gradients(model)
    assert min(after.values()) > LEAST, after


def test_neither_router_gets_a_gradient_where_all_boundaries_are_forced():
    model = tiny_model(**LAYOUT)
    input_ids, labels = masked_batch()
    model.train()(input_ids, labels=labels, on_grid=True).task_loss.backward()
    routers = [p for n, p in model.named_parameters() if ".router." in n]
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in routers)
