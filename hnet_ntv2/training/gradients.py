"""Norms and scaling of gradients by group, on replicated and on sharded parameters alike."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

Groups = Mapping[str, Sequence[nn.Parameter]]


@torch.no_grad()
def squared_norms(groups: Groups) -> dict[str, torch.Tensor]:
    """Sum of the squared gradient entries that this process holds, per group, in float64."""
    squares = {}
    for name, parameters in groups.items():
        held = [parameter.grad for parameter in parameters if parameter.grad is not None and parameter.grad.numel()]
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32).double() ** 2 for gradient in held]
        device = parameters[0].device
        squares[name] = torch.stack(norms).sum() if norms else torch.zeros((), dtype=torch.float64, device=device)
    return squares


def norms(
    squares: Mapping[str, torch.Tensor], sum_over_shards: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, float]:
    """Gradient norm per group and in "total", from squared norms that may lie on several processes."""
    summed = sum_over_shards(torch.stack(list(squares.values()))).tolist()
    return {
        **{name: math.sqrt(value) for name, value in zip(squares, summed, strict=True)},
        "total": math.sqrt(sum(summed)),
    }


@torch.no_grad()
def scale(groups: Groups, factor: float) -> None:
    """Multiply every gradient by the same factor."""
    held = [p.grad for parameters in groups.values() for p in parameters if p.grad is not None]
    if held:
        torch._foreach_mul_(held, factor)


def norm_of_loss(loss: torch.Tensor, parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Norm of the gradient of one loss at some parameters, without touching their ``grad``; the graph stays."""
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    norms_found = [torch.linalg.vector_norm(gradient.float()) for gradient in found if gradient is not None]
    return torch.linalg.vector_norm(torch.stack(norms_found)) if norms_found else loss.new_zeros(())
