"""Parameter groups by resolution, the learning rate over the run, and norms of gradients."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError

_FSDP_PART = "_fsdp_wrapped_module."

ParameterGroups = list[dict[str, Any]]


def parameter_groups(
    model: nn.Module,
    group_of: Callable[[str], str],
    learning_rate: float,
    weight_decay: float,
    multipliers: Mapping[str, float],
    without_decay: frozenset[str] | None = None,
) -> ParameterGroups:
    """Sort every parameter into exactly one group, such as "trunk" with decay and "trunk" without.

    Args:
        model: Its parameter names are given to ``group_of``.
        group_of: Name of the group that a parameter belongs to.
        learning_rate: Peak learning rate, before the multiplier.
        weight_decay: For matrices; norms, biases and embeddings have none.
        multipliers: Factor of the learning rate per group.
        without_decay: Names of the parameters that weight decay leaves alone; None finds them by shape, which needs
            whole parameters. Names are compared without the parts that FSDP inserts.

    Returns:
        Groups as :class:`torch.optim.AdamW` takes them, with ``name`` and ``group`` besides, in a fixed order.

    Raises:
        ConfigError: A group of the model has no multiplier, or a multiplier names no group.
    """
    without_decay = undecayed_names(model) if without_decay is None else without_decay
    sorted_out: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for wrapped_name, parameter in model.named_parameters():
        name = wrapped_name.replace(_FSDP_PART, "")
        sorted_out.setdefault((group_of(name), name not in without_decay), []).append(parameter)
    if missing := sorted({group for group, _ in sorted_out} - set(multipliers)):
        raise ConfigError(
            f"optimizer.multipliers lacks the model's group(s) {', '.join(missing)}; it has {list(multipliers)}"
        )
    for group, factor in multipliers.items():
        if factor < 0:
            raise ConfigError(f"optimizer.multipliers.{group}={factor} must not be negative")
    order = list(multipliers)  # a fixed order: a checkpoint's optimizer state goes by position
    return [
        {
            "params": sorted_out[group, decays],
            "name": f"{group}/{'decay' if decays else 'no_decay'}",
            "group": group,
            "lr": learning_rate * multipliers[group],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for group, decays in sorted(sorted_out, key=lambda key: (order.index(key[0]), not key[1]))
    ]


def undecayed_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that weight decay leaves alone: vectors (norms, biases, single tokens) and embeddings."""
    embeddings = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        for name, _ in module.named_parameters(recurse=False)
    }
    # By size, not by ndim: a single token has the shape [1, dim].
    vectors = {
        name for name, parameter in model.named_parameters() if max(parameter.shape, default=1) == parameter.numel()
    }
    named = {name for name, _ in model.named_parameters() if "embedding" in name.rsplit(".", 1)[-1]}
    return frozenset(embeddings | vectors | named)


def describe_groups(groups: ParameterGroups) -> str:
    """A table for the user: group, peak learning rate, weight decay, parameters."""
    rows = [f"{'group':<20} {'peak lr':>10} {'decay':>6} {'parameters':>13}"]
    for group in groups:
        count = sum(parameter.numel() for parameter in group["params"])
        rows.append(f"{group['name']:<20} {group['lr']:>10.3g} {group['weight_decay']:>6.3g} {count:>13,}")
    return "\n".join(rows)


def warmup_cosine(max_steps: int, warmup_fraction: float, final_divisor: float) -> Callable[[int], float]:
    """Factor of the learning rate as a function of the number of finished optimiser steps.

    The first step already moves (factor 1/warm-up steps), the last warm-up step runs at 1, the last step of the run at
    1/``final_divisor``.

    Args:
        max_steps: Optimiser steps of the whole run.
        warmup_fraction: Share of the steps that warms up, within 0..1.
        final_divisor: The peak divided by this is the last learning rate.

    Raises:
        ConfigError: A value outside its range.
    """
    if max_steps < 1:
        raise ConfigError(f"max_steps={max_steps} must be at least 1")
    if not 0 <= warmup_fraction <= 1:
        raise ConfigError(f"scheduler.warmup_fraction={warmup_fraction} must lie between 0 and 1")
    if final_divisor < 1:
        raise ConfigError(f"scheduler.final_divisor={final_divisor} must be at least 1")
    warmup_steps = round(warmup_fraction * max_steps)

    def factor(finished_steps: int) -> float:
        step = finished_steps + 1  # a factor of 0 in the first step would waste it
        if step <= warmup_steps:
            return step / warmup_steps
        # min: the scheduler is stepped once past the last step
        progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
        lowest = 1 / final_divisor
        return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


Groups = Mapping[str, Sequence[nn.Parameter]]


@torch.no_grad()
def squared_gradient_norms(groups: Groups) -> dict[str, torch.Tensor]:
    """Sum of the squared gradient entries that this process holds, per group, in float64."""
    squares = {}
    for name, parameters in groups.items():
        # numel: a rank of FSDP can hold none of a parameter
        held = [parameter.grad for parameter in parameters if parameter.grad is not None and parameter.grad.numel()]
        # float32 inside a norm is exact enough; the squares of many are summed in float64
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32).double() ** 2 for gradient in held]
        device = parameters[0].device
        squares[name] = torch.stack(norms).sum() if norms else torch.zeros((), dtype=torch.float64, device=device)
    return squares


def gradient_norms(
    squares: Mapping[str, torch.Tensor], sum_over_shards: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, float]:
    """Gradient norm per group and in "total", from squared norms that may lie on several processes."""
    summed = sum_over_shards(torch.stack(list(squares.values()))).tolist()  # one transfer for all groups
    return {
        **{name: math.sqrt(value) for name, value in zip(squares, summed, strict=True)},
        "total": math.sqrt(sum(summed)),
    }


@torch.no_grad()
def scale_gradients(groups: Groups, factor: float) -> None:
    """Multiply every gradient by the same factor."""
    held = [p.grad for parameters in groups.values() for p in parameters if p.grad is not None]
    if held:
        torch._foreach_mul_(held, factor)


def gradient_norm_of_loss(loss: torch.Tensor, parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Norm of the gradient of one loss at some parameters. Their ``grad`` is unchanged, the graph is kept."""
    # allow_unused: a loss need not depend on every router
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    norms_found = [torch.linalg.vector_norm(gradient.float()) for gradient in found if gradient is not None]
    return torch.linalg.vector_norm(torch.stack(norms_found)) if norms_found else loss.new_zeros(())
