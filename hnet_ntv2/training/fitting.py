"""Measure which micro-batch a CUDA device can hold: a forward and backward pass when the routers open everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from ..chunking import Router
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from .batching import largest_that_fits
from .precision import Precision

_FIRST_BASE = 7
# AdamW keeps two tensors per parameter besides the gradient; DDP's buckets hold the gradients themselves.
_OPTIMIZER_COPIES = 2


def measure_micro_batch(
    model: HNetNTV2ForMaskedLM, seq_length: int, precision: Precision, device: torch.device, start: int
) -> int:
    """Most windows of ``seq_length`` bases, as a halving of ``start``, that a training step can hold.

    Args:
        model: The model; it is moved to ``device``, its weights and gradients are left as they were.
        seq_length: Bases per window.
        precision: The arithmetic of the run.
        device: A CUDA device.
        start: Windows to begin with.
    """
    nn.Module.to(model, device)
    model.train()
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    # Stands for the optimizer's state, which comes after the first step only.
    ballast = torch.empty(_OPTIMIZER_COPIES * num_parameters, dtype=torch.float32, device=device)

    def attempt(size: int) -> None:
        try:
            train_once(model, size, seq_length, precision.autocast_dtype, device)
        finally:
            model.zero_grad(set_to_none=True)

    size = largest_that_fits(attempt, start)
    del ballast
    torch.cuda.empty_cache()
    return size


def train_once(
    model: HNetNTV2ForMaskedLM, size: int, seq_length: int, autocast_dtype: torch.dtype | None, device: torch.device
) -> float:
    """One forward and backward pass at the guard's greatest chunk count; returns the achieved ratio of stage 1.

    Args:
        model: In training mode on ``device``.
        size: Windows.
        seq_length: Bases per window.
        autocast_dtype: Type of mixed precision; None for float32.
        device: Where it runs.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(_FIRST_BASE, _FIRST_BASE + 4, (size, seq_length), generator=generator).to(device)
    input_ids = labels.clone()
    input_ids[:, ::7] = model.config.mask_token_id
    autocast = torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None)
    with open_routers(model), autocast:
        output = model(input_ids, labels=labels)
        output.loss.backward()
    stage = output.stages[0]
    return float(stage.is_boundary.sum() / stage.is_valid.sum())


@contextmanager
def open_routers(model: nn.Module) -> Iterator[None]:
    """Let every router want a boundary everywhere, so that the guard's upper limits decide the chunk counts."""
    offsets = [cast(torch.Tensor, module.beta) for module in model.modules() if isinstance(module, Router)]
    before = [offset.clone() for offset in offsets]
    for offset in offsets:
        offset.fill_(2.0)
    try:
        yield
    finally:
        for offset, value in zip(offsets, before, strict=True):
            offset.copy_(value)
