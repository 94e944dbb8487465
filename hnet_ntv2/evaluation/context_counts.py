"""Count tables that predict a masked base from the bases on both sides: the honest baseline of a small model.

For a base at offset j of a masked span, the table of order i counts, over the training bases of both strands, which
letter stood at offset j between the same i bases on the left and the same i on the right. Orders are interpolated from
none to k:

    P_i(b | context) = (count_i(context, j, b) + a_i P_{i-1}(b | context)) / (count_i(context, j) + a_i)

(Dirichlet smoothing towards the next shorter context; MacKay and Peto 1995), where a_i is chosen on a slice of the
training bases that the counts leave out, never on validation. A flank cut short by an N, an edge or another masked span
is used as far as it goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..vocabulary import A, N, is_clean_base
from .flanks import Flanks, flanks_of_targets

CONCENTRATIONS = tuple(2.0**power for power in range(-4, 13))
_HELD_OUT_SHARE = 0.05
_MOST_TRIAL_SPANS = 50_000


@dataclass(frozen=True)
class ContextCounts:
    """Interpolated two-sided context counts; make one with ``ContextCounts.fit``.

    Attributes:
        k: Bases of context on each side.
        span: Bases of a masked span.
        num_bases: Training bases that were read (each on both strands).
        concentrations: a_i of the orders 0..k.
    """

    k: int
    span: int
    num_bases: int
    concentrations: tuple[float, ...]
    _keys: NDArray[np.int64] = field(repr=False)
    _counts: NDArray[np.int32] = field(repr=False)
    _tables: dict[tuple[int, int], NDArray[np.int32]] = field(repr=False)

    @classmethod
    def fit(cls, arrays: Sequence[NDArray[np.uint8]], k: int, span: int = 6) -> "ContextCounts":
        """Count every span of the training bases, on both strands, and choose the concentrations.

        Args:
            arrays: Stretches of training bases as character ids; whatever is no A, C, G or T ends a context.
            k: Bases of context on each side, 1 to 6 (order 5 is a dense table of 100 MB, order 6 a sorted list).
            span: Bases of a masked span.

        Raises:
            ConfigError: if k is out of range or 2k + span bases do not fit in 62 bits.
            DataError: if no stretch is long enough for one span with its flanks.
        """
        if not 1 <= k <= 6 or span < 1 or 2 * k + span > 31:  # 31 bases of two bits fit a signed int64
            raise ConfigError(f"context counts with k={k} and span={span}: k must be 1..6 and 2k + span at most 31")
        # The end of each stretch is held out to choose the concentrations.
        cuts = [round(array.size * (1 - _HELD_OUT_SHARE)) for array in arrays]
        kept = [array[:cut] for array, cut in zip(arrays, cuts, strict=True)]
        held_out = [array[cut:] for array, cut in zip(arrays, cuts, strict=True)]
        concentrations = (1.0,) * (k + 1)  # of a training set too short to hold anything out
        if (examples := _windows(held_out, k, span)).size:
            trial = cls._count(kept, k, span, concentrations)
            concentrations = trial._choose_concentrations(examples)
        # Counted again with the slice that chose the concentrations: every base should count.
        return cls._count(arrays, k, span, concentrations)

    @classmethod
    def _count(cls, arrays, k: int, span: int, concentrations: tuple[float, ...]) -> "ContextCounts":
        windows = _windows(arrays, k, span)
        if not windows.size:
            raise DataError(
                f"no stretch of the training bases holds {2 * k + span} A, C, G, T in a row; nothing to count"
            )
        keys, counts = np.unique(windows, return_counts=True)
        tables = _dense_tables(keys, counts, k, span)
        num_bases = sum(int(array.size) for array in arrays)
        return cls(k, span, num_bases, concentrations, keys, counts.astype(np.int32), tables)

    def bits_per_base(self, masked_ids: NDArray, labels: NDArray) -> NDArray[np.float64]:
        """Cost in bits of every target of a masked batch.

        Args:
            masked_ids: Ids as the model sees them, [batch, length].
            labels: Id of the target where there is one, else -100, [batch, length].

        Returns:
            -log2 P of each target in row-major order, [targets]; its mean is the bits per base.

        Raises:
            DataError: if a target is not shown as [MASK] (its letter could be copied).
        """
        flanks = flanks_of_targets(masked_ids, labels, self.k, self.span)
        probability = self._predict(flanks)
        return -np.log2(probability[np.arange(len(probability)), flanks.target])

    def _predict(self, flanks: Flanks) -> NDArray[np.float64]:
        """P of the four letters at each target, [targets, 4]."""
        probability = np.full((len(flanks.offset), 4), 0.25)
        seen = np.full((2, len(flanks.offset)), -1)
        for order, strength in enumerate(self.concentrations):
            lengths = self._usable_lengths(flanks, order)
            # Where a flank was cut short the context does not grow with the order: counting it twice would sharpen P.
            grew = (lengths != seen).any(axis=0)
            counts = self._lookup(flanks.left[grew], flanks.right[grew], *lengths[:, grew], flanks.offset[grew])
            total = counts.sum(axis=1, keepdims=True)
            probability[grew] = (counts + strength * probability[grew]) / (total + strength)
            seen = lengths
        return probability

    def _usable_lengths(self, flanks: Flanks, order: int) -> NDArray[np.int64]:
        """Bases of the left and right flank that an order uses, [2, targets].

        If one flank is cut short, the other one counts up to k-1 bases: no table holds k bases on one side only.
        """
        lengths = np.minimum(np.stack([flanks.left_length, flanks.right_length]), order)
        is_whole = (lengths == self.k).all(axis=0)
        return np.where(is_whole, lengths, np.minimum(lengths, self.k - 1))

    def _lookup(self, left, right, left_length, right_length, offset) -> NDArray[np.float64]:
        """Counts of the four letters in each context, [targets, 4]."""
        counts = np.zeros((len(offset), 4))
        is_whole = left_length == self.k
        if is_whole.any():
            counts[is_whole] = self._lookup_whole(left[is_whole], right[is_whole], offset[is_whole])
        for (num_left, num_right), table in self._tables.items():
            here = np.flatnonzero((left_length == num_left) & (right_length == num_right))
            row, column = left[here] >> 2 * (self.k - num_left), right[here] >> 2 * (self.k - num_right)
            counts[here] = table[row, column, offset[here]]
        return counts

    def _lookup_whole(self, left, right, offset) -> NDArray[np.float64]:
        """Counts in contexts of k bases on both sides, from the sorted list of spans."""
        # Targets of one span share their context: each context is looked up once.
        context, inverse = np.unique((left << 2 * self.k) | right, return_inverse=True)
        first = np.searchsorted(self._keys, context << 2 * self.span)
        length = np.searchsorted(self._keys, (context + 1) << 2 * self.span) - first
        # All entries of all contexts in one array, [entries], instead of a loop over contexts.
        row = np.repeat(np.arange(len(context)), length)
        place = np.arange(len(row)) + np.repeat(first - (np.cumsum(length) - length), length)
        keys, weights = self._keys[place], self._counts[place]
        counts = np.empty((len(context), self.span, 4))
        for j in range(self.span):
            letter = (keys >> 2 * (self.span - 1 - j)) & 3
            counts[:, j] = np.bincount(row * 4 + letter, weights, minlength=len(context) * 4).reshape(-1, 4)
        return counts[inverse, offset]

    def _choose_concentrations(self, windows: NDArray[np.int64]) -> tuple[float, ...]:
        """The a_i that predict the held-out spans best, one order after the other."""
        windows = windows[:: max(1, len(windows) // _MOST_TRIAL_SPANS)]
        left, right, letters = _unpack(windows, self.k, self.span)
        offset = np.tile(np.arange(self.span), len(windows))
        left, right, target = np.repeat(left, self.span), np.repeat(right, self.span), letters.reshape(-1)
        chosen: list[float] = []
        probability = np.full(len(offset), 0.25)
        for order in range(self.k + 1):
            length = np.full(len(offset), order)
            counts = self._lookup(left, right, length, length, offset)
            hits, total = counts[np.arange(len(offset)), target], counts.sum(axis=1)
            trials = [(hits + a * probability) / (total + a) for a in CONCENTRATIONS]
            best = int(np.argmin([-np.log(trial).mean() for trial in trials]))
            chosen.append(CONCENTRATIONS[best])
            probability = trials[best]
        return tuple(chosen)


def composition_bits(arrays: Sequence[NDArray[np.uint8]], labels: NDArray) -> NDArray[np.float64]:
    """Cost in bits of every target when only the share of each letter in the training bases (both strands) is known.

    Args:
        arrays: Stretches of training bases as character ids.
        labels: Id of the target where there is one, else -100, any shape.

    Returns:
        -log2 P of each target, [targets].
    """
    counts = np.sum([np.bincount(array, minlength=N + 1)[A:N] for array in arrays], axis=0)
    both_strands = counts + counts[::-1]  # A C G T backwards are their complements
    if not both_strands.sum():
        raise DataError("the training bases hold no A, C, G or T")
    targets = labels[labels >= 0].astype(np.int64) - A
    # Plus one: a letter that the training bases lack would cost infinitely many bits.
    return -np.log2((both_strands + 1)[targets] / (both_strands + 1).sum())


def _windows(arrays: Sequence[NDArray[np.uint8]], k: int, span: int) -> NDArray[np.int64]:
    """Each run of 2k + span clean bases of both strands as (left flank, right flank, span), two bits per base."""
    found = []
    for array in arrays:
        letters = array.astype(np.int64) - A
        is_base = is_clean_base(array)
        for strand, clean in ((letters, is_base), (3 - letters[::-1], is_base[::-1])):
            found.append(_windows_of_strand(strand, clean, k, span))
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _windows_of_strand(letters: NDArray[np.int64], is_base: NDArray[np.bool_], k: int, span: int) -> NDArray[np.int64]:
    width = 2 * k + span
    num_windows = len(letters) - width + 1
    if num_windows <= 0:
        return np.empty(0, np.int64)
    # A window is clean if the count of unclean bases does not rise within it.
    num_unclean = np.concatenate(([0], np.cumsum(~is_base)))
    start = np.flatnonzero(num_unclean[width:] == num_unclean[:num_windows])
    # Flanks before the span: the spans of one context then lie side by side once sorted. Nearest base first: a shorter
    # flank is then a prefix of the longer one.
    nearest_first = [*range(k - 1, -1, -1), *range(k + span, width), *range(k, k + span)]
    window = np.zeros(len(start), np.int64)
    for place in nearest_first:
        window = (window << 2) | letters[start + place]
    return window


def _unpack(windows: NDArray[np.int64], k: int, span: int):
    """Codes of the left and right flank, [n], and the letters of the span, [n, span]."""
    left = windows >> 2 * (k + span)
    right = (windows >> 2 * span) & (4**k - 1)
    letters = np.stack([((windows >> 2 * (span - 1 - j)) & 3).astype(np.uint8) for j in range(span)], axis=1)
    return left, right, letters


def _dense_tables(keys, counts, k: int, span: int) -> dict[tuple[int, int], NDArray[np.int32]]:
    """Counts by (left, right, offset, letter) for each pair of flank lengths up to k-1: sums of the longest pair."""
    size = 4 ** (k - 1)
    left, right, letters = _unpack(keys, k, span)
    context = (left >> 2) * size + (right >> 2)  # k-1 bases on each side: k would take 16 times the memory
    full = np.empty((size, size, span, 4), np.int32)
    for j in range(span):
        hits = np.bincount(context * 4 + letters[:, j], counts, minlength=size * size * 4)
        full[:, :, j] = hits.reshape(size, size, 4)
    tables = {}
    for num_left in range(k):  # codes with the same first digits lie side by side
        by_left = full.reshape(4**num_left, -1, size, span, 4).sum(axis=1, dtype=np.int32)
        for num_right in range(k):
            parts = by_left.reshape(4**num_left, 4**num_right, -1, span, 4)
            tables[num_left, num_right] = parts.sum(axis=2, dtype=np.int32)
    return tables
