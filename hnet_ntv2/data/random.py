"""Randomness as a function of counters: the draw number i of window k in epoch e, for a seed and a purpose.

No state is carried, so a sample is the same whatever the batch, worker, rank or restart that asks for it. The mixing
function is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); a window's key is the chain of mixed
(seed, stream, epoch, k), its i-th draw the i-th output of a SplitMix64 sequence that starts at the key.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


def _as_uint64(values: ArrayLike) -> NDArray[np.uint64]:
    return np.atleast_1d(np.asarray(values, dtype=np.int64)).view(np.uint64)


def window_keys(seed: int, stream: int, epoch: ArrayLike, window: ArrayLike) -> NDArray[np.uint64]:
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


def draw_bits(keys: NDArray[np.uint64], draw: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for each (key, draw number); the two broadcast against each other."""
    return _mix(keys + (_as_uint64(draw) + np.uint64(1)) * _GOLDEN)


def unit_interval(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Random bits as float64 in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(bits: NDArray[np.uint64], bound: ArrayLike) -> NDArray[np.int64]:
    """Random bits as integers in [0, bound), for bounds up to 2**31 (the bias is below bound / 2**32)."""
    return (((bits >> np.uint64(32)) * _as_uint64(bound)) >> np.uint64(32)).astype(np.int64)


def permute(index: NDArray[np.int64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where a random permutation of ``size`` things, given by its key, sends each index, without storing it.

    A four-round Feistel network on the next even power of two, walked until it falls below ``size`` (Black and
    Rogaway, CT-RSA 2002).

    Args:
        index: Values in [0, size).
        size: Number of things.
        keys: One key, or one per index.
    """
    half = np.uint64(max((size - 1).bit_length() + 1, 2) // 2)
    value = np.array(index, dtype=np.uint64)
    keys = np.broadcast_to(keys, value.shape)
    pending = np.ones(value.shape, dtype=bool)
    while pending.any():
        value[pending] = _feistel(value[pending], keys[pending], half)
        pending = value >= size
    return value.astype(np.int64)


def _feistel(value: NDArray[np.uint64], keys: NDArray[np.uint64], half: np.uint64) -> NDArray[np.uint64]:
    low_bits = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & low_bits
    for turn in range(4):
        turn_keys = draw_bits(keys, turn)
        left, right = right, left ^ (_mix(turn_keys + right * _GOLDEN) & low_bits)
    return (left << half) | right
