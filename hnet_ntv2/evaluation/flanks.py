"""What a count table may look at: the clean bases on both sides of each masked target of a batch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..vocabulary import A, T, is_clean_base

MASK = 3


class Flanks(NamedTuple):
    """One row per target, in row-major order. Codes hold k bases of two bits, the nearest in the highest digit."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    left_length: NDArray[np.int64]
    right_length: NDArray[np.int64]
    offset: NDArray[np.int64]
    target: NDArray[np.int64]


def flanks_of_targets(masked_ids: NDArray, labels: NDArray, k: int, span: int) -> Flanks:
    """Find the flanks of each target and its offset between them.

    A span is the ``span`` positions at the nearer end of the masked run that holds the target. Flanks reach up to ``k``
    bases from it and end at anything that is no A, C, G or T: a mask, an N, an edge. In a run that is so long that no
    flank is within reach both are empty.

    Args:
        masked_ids: Ids as the model sees them, [batch, length].
        labels: Id of the target where there is one, else -100, [batch, length].
        k: Most bases of a flank.
        span: Positions between the flanks.

    Raises:
        DataError: if a target is not shown as [MASK], or is no A, C, G or T.
    """
    is_target = labels >= 0
    _check_targets(masked_ids, labels, is_target)
    margin = k + span + 1
    shape = (len(masked_ids), masked_ids.shape[1] + 2 * margin)
    padded = np.zeros(shape, np.int64)  # [CLS] between the rows: neither mask nor base
    padded[:, margin:-margin] = masked_ids
    ids = padded.reshape(-1)
    row, column = np.nonzero(is_target)
    target_at = row * shape[1] + column + margin

    run_start, run_end = _bounds_of_runs(ids == MASK)
    start = _start_of_span(target_at, run_start[target_at], run_end[target_at], span)
    is_base = is_clean_base(ids)
    letters = np.where(is_base, ids - A, 0)
    base_start, base_end = _bounds_of_runs(is_base)
    behind = start + span
    return Flanks(
        left=_code(letters, start - 1, -1, k),
        right=_code(letters, behind, +1, k),
        left_length=np.where(is_base[start - 1], np.minimum(k, start - base_start[start - 1]), 0),
        right_length=np.where(is_base[behind], np.minimum(k, base_end[behind] - behind), 0),
        offset=target_at - start,
        target=labels[is_target].astype(np.int64) - A,
    )


def _check_targets(masked_ids: NDArray, labels: NDArray, is_target: NDArray[np.bool_]) -> None:
    shown = np.unique(masked_ids[is_target])
    if not set(shown.tolist()) <= {MASK}:
        raise DataError(
            f"targets are shown as ids {shown.tolist()}; a baseline is measured on targets shown as [MASK]={MASK}"
        )
    letters = labels[is_target]
    if letters.size and (letters.min() < A or letters.max() > T):
        raise DataError(f"targets {letters.min()}..{letters.max()} are not all A, C, G or T (ids {A}..{T})")


def _bounds_of_runs(flag: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last index of the run of equal flags around each index that is set (others: meaningless)."""
    index = np.arange(len(flag))
    start = np.maximum.accumulate(np.where(flag, -1, index)) + 1
    end = np.minimum.accumulate(np.where(flag, len(flag), index)[::-1])[::-1]
    return start, end


def _start_of_span(target: NDArray, run_start: NDArray, run_end: NDArray, span: int) -> NDArray[np.int64]:
    is_nearer_left = target - run_start <= run_end - 1 - target
    start = np.where(is_nearer_left, run_start, run_end - span)
    is_within = (target - start >= 0) & (target - start < span)
    return np.where(is_within, start, target)


def _code(letters: NDArray[np.int64], nearest: NDArray[np.int64], step: int, k: int) -> NDArray[np.int64]:
    code = np.zeros(len(nearest), np.int64)
    for distance in range(k):
        code = (code << 2) | letters[nearest + step * distance]
    return code
