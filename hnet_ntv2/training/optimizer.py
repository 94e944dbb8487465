"""AdamW with learning-rate groups by resolution, and weight decay on matrices only."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import AdamW

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
    _require_known({group for group, _ in sorted_out}, multipliers)
    order = list(multipliers)
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
    vectors = {
        name for name, parameter in model.named_parameters() if max(parameter.shape, default=1) == parameter.numel()
    }
    named = {name for name, _ in model.named_parameters() if "embedding" in name.rsplit(".", 1)[-1]}
    return frozenset(embeddings | vectors | named)


def build_optimizer(groups: ParameterGroups, betas: Iterable[float], eps: float) -> AdamW:
    """AdamW over the groups of :func:`parameter_groups`."""
    first, second = betas
    return AdamW(groups, betas=(first, second), eps=eps)


def describe_groups(groups: ParameterGroups) -> str:
    """A table for the user: group, peak learning rate, weight decay, parameters."""
    rows = [f"{'group':<20} {'peak lr':>10} {'decay':>6} {'parameters':>13}"]
    for group in groups:
        count = sum(parameter.numel() for parameter in group["params"])
        rows.append(f"{group['name']:<20} {group['lr']:>10.3g} {group['weight_decay']:>6.3g} {count:>13,}")
    return "\n".join(rows)


def _require_known(groups: set[str], multipliers: Mapping[str, float]) -> None:
    if missing := sorted(groups - set(multipliers)):
        raise ConfigError(
            f"optimizer.multipliers lacks the model's group(s) {', '.join(missing)}; it has {list(multipliers)}"
        )
    for group, factor in multipliers.items():
        if factor < 0:
            raise ConfigError(f"optimizer.multipliers.{group}={factor} must not be negative")
