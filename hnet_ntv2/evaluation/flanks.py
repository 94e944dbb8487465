"""Read the clean bases on both sides of each masked target of a batch, as codes for a count table."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..vocabulary import MASK_ID, A, T, is_clean_base


class Flanks(NamedTuple):
    """The flanks of a batch's targets, in row-major order; each field is [targets].

    Attributes:
        left: Code of the k bases on the left: two bits a base, the nearest base in the highest digit.
        right: The same on the right.
        left_length: Bases of the left code that are clean; the others are meaningless.
        right_length: The same on the right.
        offset: Place of the target between its flanks.
        target: 0..3 for A, C, G, T.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    left_length: NDArray[np.int64]
    right_length: NDArray[np.int64]
    offset: NDArray[np.int64]
    target: NDArray[np.int64]


def flanks_of_targets(masked_ids: NDArray, labels: NDArray, k: int, span: int) -> Flanks:
    """Find the flanks of each target and its offset between them.

    A span is the ``span`` positions at the nearer end of the masked run that holds the target. Flanks hold up to ``k``
    bases beside it and end at anything that is no A, C, G or T: a mask, an N, an edge. Both are empty in the middle of
    a run that is too long for either.

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
    # Wide enough that no index below leaves its row: a span and a flank beyond either end.
    margin = k + span + 1
    shape = (len(masked_ids), masked_ids.shape[1] + 2 * margin)
    padded = np.zeros(shape, np.int64)  # id 0, [CLS]: neither mask nor base, so runs end at the rows' edges
    padded[:, margin:-margin] = masked_ids
    ids = padded.reshape(-1)
    row, column = np.nonzero(is_target)
    target_at = row * shape[1] + column + margin

    run_start, run_end = _bounds_of_runs(ids == MASK_ID)
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
    if not set(shown.tolist()) <= {MASK_ID}:
        raise DataError(
            f"targets are shown as ids {shown.tolist()}; a baseline is measured on targets shown as [MASK]={MASK_ID}"
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
    # A run of several spans has flanks only at its ends: each target is predicted from the nearer one.
    is_nearer_left = target - run_start <= run_end - 1 - target
    start = np.where(is_nearer_left, run_start, run_end - span)
    is_within = (target - start >= 0) & (target - start < span)
    # Elsewhere the target is a span of its own: its neighbours are masks, so both flanks come out empty.
    return np.where(is_within, start, target)


def _code(letters: NDArray[np.int64], nearest: NDArray[np.int64], step: int, k: int) -> NDArray[np.int64]:
    code = np.zeros(len(nearest), np.int64)
    for distance in range(k):
        code = (code << 2) | letters[nearest + step * distance]
    return code
