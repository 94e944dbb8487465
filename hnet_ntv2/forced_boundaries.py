"""Decide which chunk boundaries are not the router's to choose: row start, mask protection, NTv2's grid, anchors.

Everything here depends on the input ids only, never on labels. The cap and the guard, which depend on the router's own
decisions, live in ``chunking.py``.
"""

from typing import NamedTuple

import torch

from .kmers import GridCells, grid_cells, run_length_left, run_length_right, shift_left
from .levels import BoundaryReason
from .shapes import Bool, Int, Shaped, Tensor
from .vocabulary import MASK_ID, is_clean_base


class _Decision(NamedTuple):
    """Positions where one rule wants a boundary (``on``) and where it forbids one (``off``)."""

    on: Bool[Tensor, "batch length"]
    off: Bool[Tensor, "batch length"]


def force_boundaries(
    input_ids: Int[Tensor, "batch length"],
    is_valid: Bool[Tensor, "batch length"],
    *,
    k: int,
    num_stages: int,
    on_grid: Bool[Tensor, "batch length"] | bool = False,
    anchors: Bool[Tensor, "batch length"] | bool = False,
    protect_masks: bool = True,
) -> tuple[Bool[Tensor, "batch length stages"], Int[Tensor, "batch length stages"]]:
    """Apply the rules in their order of precedence: row start, mask protection, grid, anchors.

    Args:
        input_ids: Character ids.
        is_valid: False at padding.
        k: Length of the source model's k-mers.
        num_stages: Stages of chunking; a boundary of the last stage is a boundary in every stage.
        on_grid: Bases whose whole grid cell is forced (the value at the cell's first base counts), or all or none.
        anchors: Whether masked runs have anchors (the masked base next to the flank decides), or all or none.
        protect_masks: Force boundaries around masked runs and every k bases inside them.

    Returns:
        ``forced_boundary`` and ``forced_reason`` of the base level, one slice per stage (outermost first).
    """
    is_masked = (input_ids == MASK_ID) & is_valid
    cells = grid_cells(input_ids, is_valid, k)
    on_grid = _expand_flag(on_grid, input_ids) & is_valid
    anchor = _anchor_rule(input_ids, is_valid, is_masked, _expand_flag(anchors, input_ids), k)
    mask = _mask_rule(is_masked, k) if protect_masks else _nowhere(is_masked)
    row_start = torch.zeros_like(is_valid)
    row_start[:, :1] = is_valid[:, :1]

    decisions, reasons = [], []
    for stage in range(num_stages):
        is_last = stage == num_stages - 1
        grid = _grid_rule(cells, on_grid, keep_middles=stage == 0 and not is_last)
        # A masked run on the grid keeps the grid's own token starts (remainder letters are chunks of one).
        protection = _Decision(mask.on, mask.off & ~(grid.on & cells.is_start))
        decision = torch.zeros_like(is_valid)
        # int8: there is one reason per base and stage, and int64 would take eight times the memory.
        reason = torch.full_like(input_ids, BoundaryReason.ROUTER.value, dtype=torch.int8)
        # Weakest first: what comes later overwrites.
        for rule, code in (
            (_Decision(anchor.on, anchor.off if is_last else torch.zeros_like(anchor.off)), BoundaryReason.ANCHOR),
            (grid, BoundaryReason.GRID),
            (protection, BoundaryReason.MASK),
            (_Decision(row_start, torch.zeros_like(row_start)), BoundaryReason.ROW_START),
        ):
            applies = (rule.on | rule.off) & is_valid
            decision = torch.where(applies, rule.on, decision)
            reason = reason.masked_fill(applies, code.value)
        decisions.append(decision)
        reasons.append(reason.masked_fill(~is_valid, BoundaryReason.PADDING.value))
    return torch.stack(decisions, -1), torch.stack(reasons, -1)


def _expand_flag(flag: Shaped[Tensor, "batch length"] | bool, input_ids: Tensor) -> Bool[Tensor, "batch length"]:
    if isinstance(flag, bool):
        return torch.full_like(input_ids, flag, dtype=torch.bool)
    return flag.bool()


def _nowhere(like: Bool[Tensor, "batch length"]) -> _Decision:
    return _Decision(torch.zeros_like(like), torch.zeros_like(like))


def _shift_right(values: Bool[Tensor, "batch length"], offset: int) -> Bool[Tensor, "batch length"]:
    """Bring the value ``offset`` positions to the left here; False comes in at the start."""
    length = values.shape[1]
    return torch.nn.functional.pad(values, (offset, 0))[:, :length]


def _mask_rule(is_masked: Bool[Tensor, "batch length"], k: int) -> _Decision:
    """A boundary before and after each masked run; inside it one every k bases and nowhere else."""
    offset = run_length_left(is_masked) - 1
    on = (is_masked & (offset % k == 0)) | (_shift_right(is_masked, 1) & ~is_masked)
    return _Decision(on, is_masked & ~on)


def _grid_rule(cells: GridCells, on_grid: Bool[Tensor, "batch length"], keep_middles: bool) -> _Decision:
    """Whole cells are on the grid or free; a forced cell also ends with a boundary. Stage 1 adds k-mers' middles."""
    # A cell that is forced in part would be no token of NTv2: its first base decides for all.
    is_forced = on_grid.gather(1, cells.first)
    on = cells.is_start & (is_forced | _shift_right(is_forced, 1))
    if keep_middles:
        on = on | (cells.is_middle & is_forced)
    return _Decision(on, is_forced & ~on)


def _anchor_rule(
    input_ids: Int[Tensor, "batch length"],
    is_valid: Bool[Tensor, "batch length"],
    is_masked: Bool[Tensor, "batch length"],
    anchors: Bool[Tensor, "batch length"],
    k: int,
) -> _Decision:
    """The k clean bases on each side of a masked run form one final chunk, where there are k of them.

    Between two runs that are closer than 2k, the flank in front of the second run is kept whole and the one behind the
    first is shortened: every clean base then still lies in a k-mer without a mask.
    """
    is_clean = is_clean_base(input_ids) & is_valid
    run_starts_next = shift_left(is_masked & anchors, 1) & ~is_masked
    flank_ends = run_starts_next & (run_length_left(is_clean) >= k)
    run_ended_before = _shift_right(is_masked & anchors, 1) & ~is_masked
    behind_starts = run_ended_before & (run_length_right(is_clean) >= k)

    # The flank's first base lies k - 1 in front of its last.
    front_on = shift_left(flank_ends, k - 1)
    front_off, behind_off = torch.zeros_like(is_masked), torch.zeros_like(is_masked)
    for offset in range(k - 1):
        front_off = front_off | shift_left(flank_ends, offset)
        behind_off = behind_off | _shift_right(behind_starts, offset + 1)
    behind_end = _shift_right(behind_starts, k) & ~front_off
    on = front_on | behind_starts | behind_end
    return _Decision(on, (front_off | behind_off) & ~on)
