"""Turn the raw windows of a micro-batch into a batch: strand, masks, loss weights."""

from dataclasses import dataclass, replace
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import torch

from ..errors import ConfigError
from ..shapes import Bool, Float, Int, Tensor, UInt8
from ..vocabulary import BASE_BITS, SOFT_MASK, reverse_complement
from .dataset import RawWindows
from .masking import NO_TARGET, MaskConfig, MaskedWindows, MaskKeys, mask_windows
from .ramps import CellShares
from .random import Stream, draw_bits, unit_interval, window_keys


class Batch(TypedDict):
    """What a training or validation step gets, on the CPU.

    Attributes:
        input_ids: Character ids as the model sees them, one byte each until they are on the device.
        labels: The id of each target, -100 elsewhere.
        loss_weights: Weight of each base in the loss.
        is_repeat: Whether each base is annotated as a repeat.
        window_index: Sample counter of each window; negative for filling without targets.
        on_grid: Bases whose grid cell is forced (the cell's first base decides); only while a warm start asks for it.
        anchors: Masked bases whose flank becomes an anchor; likewise.
        grid_input_ids: Validation only: the same windows with whole tokens of NTv2's grid masked.
        grid_labels: The targets of ``grid_input_ids``.
    """

    input_ids: UInt8[Tensor, "batch length"]
    labels: Int[Tensor, "batch length"]
    loss_weights: Float[Tensor, "batch length"]
    is_repeat: Bool[Tensor, "batch length"]
    window_index: Int[Tensor, " batch"]
    on_grid: NotRequired[Bool[Tensor, "batch length"]]
    anchors: NotRequired[Bool[Tensor, "batch length"]]
    grid_input_ids: NotRequired[UInt8[Tensor, "batch length"]]
    grid_labels: NotRequired[Int[Tensor, "batch length"]]


class _Draws(NamedTuple):
    """Random decisions per window, by counters: the same in any batch, on any rank, after any restart.

    Attributes:
        masks_on_grid: [batch] the window's masks are whole tokens of NTv2's grid.
        on_grid: [batch, length] a cell that starts at the base is forced.
        anchors: [batch, length] a masked run that ends at the base has an anchor there.
    """

    masks_on_grid: Bool[np.ndarray, " batch"]
    on_grid: Bool[np.ndarray, "batch length"]
    anchors: Bool[np.ndarray, "batch length"]

    @classmethod
    def of(cls, seed: int, windows: RawWindows, length: int, shares: CellShares) -> "_Draws":
        keys = window_keys(seed, Stream.MODEL, windows.epoch, windows.number)[:, None]
        grid, anchors = (share[:, None] for share in shares.at(windows.counter))
        # All are drawn, needed or not, so that a draw's number does not depend on the shares.
        draws = unit_interval(draw_bits(keys, np.arange(1 + 2 * length)))
        cells, flanks = draws[:, 1 : 1 + length], draws[:, 1 + length :]
        return cls(draws[:, 0] < grid[:, 0], cells < grid, flanks < anchors)


@dataclass(frozen=True)
class MaskingCollator:
    """Make a batch of raw windows; the masks follow from the seed and each window's epoch and number k.

    Attributes:
        mask: How to mask.
        seed: Seed of the masks.
        repeat_weight: Loss weight of repeats.
        shown_as_mask_only: Show every target as [MASK] (validation).
        grid_aligned_until: Windows with a counter below it are masked in whole k-mer tokens of NTv2's grid.
        cell_shares: How many cells, anchors and masks are on the grid at each sample; None for a model that is free.
        adds_grid_view: Add ``grid_input_ids`` and ``grid_labels`` (validation).

    Raises:
        ConfigError: if the repeat weight is negative.
    """

    mask: MaskConfig
    seed: int
    repeat_weight: float = 1.0
    shown_as_mask_only: bool = False
    grid_aligned_until: int = 0
    cell_shares: CellShares | None = None
    adds_grid_view: bool = False

    def __post_init__(self) -> None:
        if self.repeat_weight < 0:
            raise ConfigError(f"repeat_weight {self.repeat_weight} is negative; 0.1 is usual, 1 treats all bases alike")

    def __call__(self, windows: RawWindows) -> Batch:
        bases = windows.bases
        if windows.is_reverse.any():
            bases = np.where(windows.is_reverse[:, None], reverse_complement(bases), bases)
        is_repeat = bases >= SOFT_MASK
        input_ids = bases & BASE_BITS
        on_grid = (windows.counter < self.grid_aligned_until) | self.mask.grid_aligned
        flags: dict[str, torch.Tensor] = {}
        if self.cell_shares is not None:
            draws = _Draws.of(self.seed, windows, input_ids.shape[1], self.cell_shares)
            on_grid = on_grid | draws.masks_on_grid
            flags = {"on_grid": torch.from_numpy(draws.on_grid), "anchors": torch.from_numpy(draws.anchors)}
        masked = self._mask(input_ids, windows, on_grid)
        # float32 scalars: Python's floats would make the array float64.
        weights = np.where(is_repeat, np.float32(self.repeat_weight), np.float32(1.0))
        batch = Batch(
            input_ids=torch.from_numpy(masked.input_ids),
            labels=torch.from_numpy(masked.labels),
            loss_weights=torch.from_numpy(weights),
            is_repeat=torch.from_numpy(is_repeat),
            window_index=torch.from_numpy(windows.counter),
        )
        batch.update(flags)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if self.adds_grid_view:
            view = self._mask(input_ids, windows, np.ones(len(input_ids), dtype=bool))
            batch["grid_input_ids"] = torch.from_numpy(view.input_ids)
            batch["grid_labels"] = torch.from_numpy(view.labels)
        return batch

    def _mask(
        self, input_ids: UInt8[np.ndarray, "batch length"], windows: RawWindows, on_grid: Bool[np.ndarray, " batch"]
    ) -> MaskedWindows:
        keys = MaskKeys.of(self.seed, windows.epoch, windows.number)
        masked = self._mask_rows(input_ids, keys, bool(on_grid.all()))
        if on_grid.any() and not on_grid.all():  # a batch of both kinds, between the phases of a warm start
            aligned = self._mask_rows(input_ids[on_grid], keys.rows(on_grid), True)
            masked.input_ids[on_grid], masked.labels[on_grid] = aligned
        # Windows that only fill a last batch are counted elsewhere.
        masked.labels[windows.counter < 0] = NO_TARGET
        return masked

    def _mask_rows(self, input_ids: UInt8[np.ndarray, "batch length"], keys: MaskKeys, on_grid: bool) -> MaskedWindows:
        config = replace(self.mask, grid_aligned=on_grid)
        return mask_windows(input_ids, keys, config, shown_as_mask_only=self.shown_as_mask_only)
