"""Random bits as a function of counters: draw i of window k in epoch e, for a seed and a purpose.

There is no state, so a sample is the same in any batch or worker, on any rank, after any restart. The mixing
function is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); a window's key is the chain of mixed
(seed, stream, epoch, k), its i-th draw the i-th output of a SplitMix64 sequence that starts at the key.
"""

import math
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Integers = int | NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_MULTIPLIER = np.uint64(0x94D049BB133111EB)


class Stream(IntEnum):
    """What a draw is for; draws of different streams are independent."""

    TILE_ORDER = 1
    JITTER = 2
    STRAND = 3
    MASK_PLACE = 4
    MASK_KIND = 5
    MASK_LETTER = 6
    MODEL = 7
    """For draws that belong to a window but are made outside this package's data layer."""


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * _FIRST_MULTIPLIER
    value = (value ^ (value >> np.uint64(27))) * _SECOND_MULTIPLIER
    return value ^ (value >> np.uint64(31))


def _as_uint64(values: Integers) -> NDArray[np.uint64]:
    # An array even for a scalar: numpy warns of overflow, which is wanted here, for scalars only.
    return np.atleast_1d(np.asarray(values, dtype=np.int64)).view(np.uint64)


def window_keys(seed: int, stream: int, epoch: Integers, window: Integers) -> NDArray[np.uint64]:
    """One key per window, for ``draw_bits``.

    Args:
        seed: Any integer; taken modulo 2**64.
        stream: What the draws are for.
        epoch: Epoch of each window, or of all.
        window: Number of each window in its epoch.
    """
    key = np.array([seed % 2**64], dtype=np.uint64)
    for part in (stream, epoch, window):
        key = _mix(key + (_as_uint64(part) + np.uint64(1)) * _GOLDEN)
    return key


def draw_bits(keys: NDArray[np.uint64], draw: Integers) -> NDArray[np.uint64]:
    """64 random bits for each (key, draw number); the two broadcast against each other."""
    return _mix(keys + (_as_uint64(draw) + np.uint64(1)) * _GOLDEN)


def unit_interval(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Random bits as float64 in [0, 1)."""
    # 53 bits, as many as a float64's mantissa holds: the result is exact and below 1.
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(bits: NDArray[np.uint64], bound: Integers) -> NDArray[np.int64]:
    """Random bits as integers in [0, bound), for bounds up to 2**31 (the bias is below bound / 2**32)."""
    return (((bits >> np.uint64(32)) * _as_uint64(bound)) >> np.uint64(32)).astype(np.int64)


def permute(index: NDArray[np.int64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The images of some indices under a random permutation of ``size`` things, which is never stored.

    A generalised Feistel cipher on the smallest near-square rectangle of at least ``size`` cells, repeated for the few
    values that leave the range (Black and Rogaway, CT-RSA 2002).

    Args:
        index: Values in [0, size).
        size: Number of things, up to 2**62.
        keys: One key, or one per index.
    """
    height = math.isqrt(size - 1) + 1
    width = -(-size // height)
    value = np.array(index, dtype=np.int64)
    keys = np.broadcast_to(keys, value.shape)
    outside = np.ones(value.shape, dtype=bool)
    # Ends: a permutation of the rectangle brings each value back into the range after some rounds.
    while outside.any():
        value[outside] = _shuffle_cells(value[outside], height, width, keys[outside])
        outside = value >= size
    return value


def _shuffle_cells(value: NDArray[np.int64], height: int, width: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Six half-rounds: row and column are shifted in turn by an amount that depends on the other one only."""
    row, column = np.divmod(value, width)
    for turn in range(0, 6, 2):
        row = (row + below(draw_bits(draw_bits(keys, turn), column), height)) % height
        column = (column + below(draw_bits(draw_bits(keys, turn + 1), row), width)) % width
    return row * width + column
