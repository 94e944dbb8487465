"""The learning rate over the run: linear warm-up, then a cosine down to a fraction of the peak."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..errors import ConfigError


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
        step = finished_steps + 1
        if step <= warmup_steps:
            return step / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
        lowest = 1 / final_divisor
        return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def build_scheduler(
    optimizer: Optimizer,
    max_steps: int,
    warmup_fraction: float,
    final_divisor: float,
    phase_factor: Callable[[int, str], float] | None = None,
) -> LambdaLR:
    """One factor for all parameter groups, which keep their multipliers.

    Args:
        optimizer: Its groups have a ``group`` where ``phase_factor`` is given.
        max_steps: See ``warmup_cosine``.
        warmup_fraction: Likewise.
        final_divisor: Likewise.
        phase_factor: Further factor at (finished steps, group).
    """
    common = warmup_cosine(max_steps, warmup_fraction, final_divisor)
    if phase_factor is None:
        return LambdaLR(optimizer, common)

    def factor_of(group: str) -> Callable[[int], float]:
        return lambda finished_steps: common(finished_steps) * phase_factor(finished_steps, group)

    return LambdaLR(optimizer, [factor_of(group["group"]) for group in optimizer.param_groups])
