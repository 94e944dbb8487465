"""Turn raw windows into a training batch: strand, masking, loss weights. Once per micro-batch, in bytes."""

from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch

from ..errors import ConfigError
from ..genome.alphabet import BASE_BITS, SOFT_MASK, reverse_complement
from ..shapes import Bool, Float, Int, Tensor, UInt8
from .dataset import RawWindows
from .masking import NO_TARGET, MaskConfig, MaskedWindows, MaskKeys, mask_windows


class Batch(TypedDict):
    """What a training or validation step gets, on the CPU.

    Attributes:
        input_ids: Character ids as the model sees them, in bytes until they are on the device.
        labels: The id of each target, -100 elsewhere.
        loss_weights: Weight of each base in the loss.
        is_repeat: Whether each base is annotated as a repeat.
        window_index: Sample counter of each window; negative for filling without targets.
    """

    input_ids: UInt8[Tensor, "batch length"]
    labels: Int[Tensor, "batch length"]
    loss_weights: Float[Tensor, "batch length"]
    is_repeat: Bool[Tensor, "batch length"]
    window_index: Int[Tensor, " batch"]


@dataclass(frozen=True)
class MaskingCollator:
    """Makes the batch of some raw windows; what is masked follows from (seed, epoch, k) of each window.

    Attributes:
        mask: How to mask.
        seed: Seed of the masks.
        repeat_weight: Loss weight of repeats.
        shown_as_mask_only: Show every target as [MASK] (validation).
        grid_aligned_until: Windows with a counter below it are masked in whole k-mer tokens of NTv2's grid.

    Raises:
        ConfigError: if the repeat weight is negative.
    """

    mask: MaskConfig
    seed: int
    repeat_weight: float = 1.0
    shown_as_mask_only: bool = False
    grid_aligned_until: int = 0

    def __post_init__(self) -> None:
        if self.repeat_weight < 0:
            raise ConfigError(f"repeat_weight {self.repeat_weight} is negative; 0.1 is usual, 1 treats all bases alike")

    def __call__(self, windows: RawWindows) -> Batch:
        bases = windows.bases
        if windows.is_reverse.any():
            bases = np.where(windows.is_reverse[:, None], reverse_complement(bases), bases)
        is_repeat = bases >= SOFT_MASK
        masked = self._mask(bases & BASE_BITS, windows)
        masked.labels[windows.counter < 0] = NO_TARGET
        weights = np.where(is_repeat, np.float32(self.repeat_weight), np.float32(1.0))
        return Batch(
            input_ids=torch.from_numpy(masked.input_ids),
            labels=torch.from_numpy(masked.labels),
            loss_weights=torch.from_numpy(weights),
            is_repeat=torch.from_numpy(is_repeat),
            window_index=torch.from_numpy(windows.counter),
        )

    def _mask(self, input_ids: UInt8[np.ndarray, "batch length"], windows: RawWindows) -> MaskedWindows:
        keys = MaskKeys.of(self.seed, windows.epoch, windows.number)
        on_grid = (windows.counter < self.grid_aligned_until) | self.mask.grid_aligned
        if on_grid.all() or not on_grid.any():
            return self._mask_rows(input_ids, keys, bool(on_grid.any()))
        masked = self._mask_rows(input_ids, keys, False)
        aligned = self._mask_rows(input_ids[on_grid], keys.rows(on_grid), True)
        masked.input_ids[on_grid], masked.labels[on_grid] = aligned
        return masked

    def _mask_rows(self, input_ids: UInt8[np.ndarray, "batch length"], keys: MaskKeys, on_grid: bool) -> MaskedWindows:
        config = replace(self.mask, grid_aligned=on_grid)
        return mask_windows(input_ids, keys, config, shown_as_mask_only=self.shown_as_mask_only)
