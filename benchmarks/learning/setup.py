"""The sizes of the experiment: minutes, an hour, a GPU."""

import platform
import time
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import nn

_Model = TypeVar("_Model", bound=nn.Module)


@dataclass(frozen=True)
class SourceSetup:
    """The source model and its training.

    Attributes:
        width: Of the hidden states.
        heads: Attention heads.
        intermediate: Width of a block's gated unit.
        layers: Blocks.
        steps: Optimiser steps.
        batch_size: Windows per step.
        learning_rate: Peak.
        seed: Of the weights.
        checkpoint_every: Steps between saves of the progress.
    """

    width: int = 64
    heads: int = 4
    intermediate: int = 256
    layers: int = 8
    steps: int = 4500
    batch_size: int = 16
    learning_rate: float = 2.5e-3
    seed: int = 1
    checkpoint_every: int = 200


@dataclass(frozen=True)
class Setup:
    """One size of the experiment.

    Attributes:
        seq_length: Bases per window, in training and validation.
        steps: Optimiser steps of every arm.
        batch_size: Windows per step.
        learning_rate: Peak, of all arms.
        seeds: Of the core arms; the others have the first one only.
        windows: Validation windows, masked alike for all arms.
        curve_windows: Validation windows of the learning curves.
        curve_points: Points of a learning curve after the start.
        accelerator: "cpu" or "cuda".
        source: The source model.
    """

    seq_length: int = 768
    steps: int = 320
    batch_size: int = 10
    learning_rate: float = 1.5e-3
    seeds: tuple[int, ...] = (1, 2, 3)
    windows: int = 2560
    curve_windows: int = 128
    curve_points: int = 8
    accelerator: str = "cpu"
    source: SourceSetup = field(default_factory=SourceSetup)

    def model_settings(self) -> dict:
        """Settings of our model that fit the source."""
        source = self.source
        return {
            "d_model": source.width,
            "n_head": source.heads,
            "intermediate_size": 2 * source.intermediate,
            "n_main_layer": source.layers,
            "window": 32,
            "kmer_size": 6,
            "layer_norm_eps": 1e-12,
            "chunker": "learned",  # the arms of docs/experiments.md are compared with it; others name theirs
            "use_anchors": False,  # an arm says itself when it trains with anchors
            "initializer_gain": 1.0,
        }


def describe_device(accelerator: str) -> str:
    """The device of a run in words. Only times of equal descriptions are compared."""
    if accelerator == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU with {torch.backends.cpu.get_cpu_capability()}, one thread"


def on_device(model: _Model, accelerator: str) -> _Model:
    """Move a model to its device and return it."""
    # Called on the class: transformers wraps ``to``, and a type checker no longer sees what it returns.
    nn.Module.to(model, torch.device(accelerator))
    return model


def clock(accelerator: str) -> float:
    """Seconds that a run has spent: CPU time, which excludes other processes; wall time on a GPU."""
    if accelerator == "cuda":
        torch.cuda.synchronize()
        return time.monotonic()
    return time.process_time()


HOUR = Setup()
SIZES = {
    # To see that everything runs; its differences mean nothing.
    "minutes": replace(
        HOUR,
        steps=24,
        seeds=(1,),
        windows=64,
        curve_windows=16,
        curve_points=2,
        source=replace(HOUR.source, width=32, heads=2, intermediate=64, layers=3, steps=40, checkpoint_every=20),
    ),
    "hour": HOUR,
    # Four times the window, nearly as many bases a step: copies of a repeat are farther apart than at ``hour``.
    "wide": replace(HOUR, seq_length=3072, batch_size=3, windows=640, curve_windows=32),
    # Again four times the window, and as many bases in all as at ``hour``.
    "widest": replace(HOUR, seq_length=12_288, batch_size=1, steps=200, windows=160, curve_windows=8),
    # The same for longer: what is best in the first steps need not be so later.
    "long": replace(HOUR, steps=700),
    # The shape of NTv2-50M.
    "gpu": replace(
        HOUR,
        seq_length=1536,
        steps=4000,
        batch_size=64,
        learning_rate=6e-4,
        accelerator="cuda",
        source=replace(
            HOUR.source,
            width=512,
            heads=16,
            intermediate=2048,
            layers=12,
            steps=20_000,
            batch_size=64,
            learning_rate=5e-4,
        ),
    ),
}
