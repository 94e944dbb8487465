"""Choose masked spans and replace their letters: vectorised over a batch, drawn by counters.

Where spans lie and what is shown there does not depend on which of A, C, G, T a base is, only on where N and special
ids are. So nothing about a hidden base leaks into the model's input.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..kmers import grid_cells
from ..shapes import Bool, Int, UInt8
from ..vocabulary import FIRST_BASE, MASK_ID, is_clean_base
from .random import Stream, below, draw_bits, unit_interval, window_keys

NO_TARGET = -100


@dataclass(frozen=True)
class MaskConfig:
    """How much is masked, in what pieces, and how it is shown.

    Attributes:
        rate: Share of a window's bases in masked spans, rounded to whole spans (at least one).
        span: Bases per span, 1 for single bases.
        mask_share: Share of the spans shown as [MASK].
        random_share: Share of the spans shown as random letters; the rest stays as it is.
        grid_aligned: Spans are whole k-mer tokens of NTv2's grid (pieces between N, cut from their left end), in place
            of ``span`` bases anywhere.
        grid_k: The k of that grid.

    Raises:
        ConfigError: if a value is out of range.
    """

    rate: float = 0.15
    span: int = 6
    mask_share: float = 0.8
    random_share: float = 0.1
    grid_aligned: bool = False
    grid_k: int = 6

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ConfigError(f"mask rate {self.rate} is not between 0 and 1; the usual value is 0.15")
        if self.span < 1 or self.grid_k < 1:
            raise ConfigError(f"mask span {self.span} and grid k {self.grid_k} must be at least 1 base")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ConfigError(
                f"mask share {self.mask_share} and random share {self.random_share} must be shares of at most 1 in sum"
            )


class MaskKeys(NamedTuple):
    """The random keys of each window of a batch: for placing spans, for how each is shown, for random letters."""

    place: NDArray[np.uint64]
    kind: NDArray[np.uint64]
    letter: NDArray[np.uint64]

    @classmethod
    def of(cls, seed: int, epoch: NDArray[np.int64], window: NDArray[np.int64]) -> "MaskKeys":
        """Keys of window number ``window`` of epoch ``epoch``."""
        streams = (Stream.MASK_PLACE, Stream.MASK_KIND, Stream.MASK_LETTER)
        return cls(*(window_keys(seed, stream, epoch, window) for stream in streams))

    def rows(self, chosen: NDArray[np.bool_]) -> "MaskKeys":
        """The keys of some windows of the batch."""
        return MaskKeys(*(keys[chosen] for keys in self))


class MaskedWindows(NamedTuple):
    """A batch as the model sees it, and its targets.

    Attributes:
        input_ids: Character ids with spans hidden.
        labels: The id at each target, -100 elsewhere.
    """

    input_ids: UInt8[np.ndarray, "batch length"]
    labels: Int[np.ndarray, "batch length"]


class _Spans(NamedTuple):
    row: NDArray[np.int64]
    start: NDArray[np.int64]
    number: NDArray[np.int64]
    length: int


def mask_windows(
    input_ids: UInt8[np.ndarray, "batch length"],
    keys: MaskKeys,
    config: MaskConfig,
    *,
    shown_as_mask_only: bool = False,
) -> MaskedWindows:
    """Hide spans of each window.

    Only A, C, G and T can be targets: N and special ids inside a span stay as they are.

    Args:
        input_ids: Character ids.
        keys: The random keys of the windows.
        config: How to mask.
        shown_as_mask_only: Show every target as [MASK] (validation), instead of the 80/10/10 draw per span.

    Raises:
        DataError: if a window is shorter than one span.
    """
    spans = _grid_spans(input_ids, keys, config) if config.grid_aligned else _free_spans(input_ids.shape, keys, config)
    # One draw in [0, 1) per span; 0 is shown as [MASK].
    kind = unit_interval(draw_bits(keys.kind[spans.row], spans.number))
    kind = np.zeros_like(kind) if shown_as_mask_only else kind
    rows = np.repeat(spans.row, spans.length)
    columns = (spans.start[:, None] + np.arange(spans.length)).reshape(-1)
    original = input_ids[rows, columns]
    is_target = is_clean_base(original)
    rows, columns, original = rows[is_target], columns[is_target], original[is_target]
    kind = np.repeat(kind, spans.length)[is_target]

    labels = np.full(input_ids.shape, NO_TARGET, dtype=np.int16)
    labels[rows, columns] = original
    # At each target the input holds [MASK], a random letter, or the base itself.
    at_targets = np.where(kind < config.mask_share, np.uint8(MASK_ID), original)
    is_random = (kind >= config.mask_share) & (kind < config.mask_share + config.random_share)
    letters = below(draw_bits(keys.letter[rows[is_random]], columns[is_random]), 4)
    at_targets[is_random] = (FIRST_BASE + letters).astype(np.uint8)
    shown = input_ids.copy()
    shown[rows, columns] = at_targets
    return MaskedWindows(shown, labels)


def _free_spans(shape: tuple[int, ...], keys: MaskKeys, config: MaskConfig) -> _Spans:
    """Spans at uniformly random starts, none overlapping another."""
    batch, length = shape
    if length < config.span:
        raise DataError(f"a window of {length} bases is shorter than a masked span of {config.span}")
    count = min(max(round(config.rate * length / config.span), 1), length // config.span)
    # Starts among places where each span has shrunk to one base: putting the spans back keeps every layout as likely.
    shrunk = _distinct_sorted(keys.place, count, length - count * (config.span - 1))
    start = shrunk + np.arange(count) * (config.span - 1)
    row = np.repeat(np.arange(batch), count)
    return _Spans(row, start.reshape(-1), np.tile(np.arange(count), batch), config.span)


def _distinct_sorted(keys: NDArray[np.uint64], count: int, bound: int) -> NDArray[np.int64]:
    """A uniformly random set of ``count`` integers below ``bound`` for each key, sorted, as [keys, count].

    It is the first ``count`` different values of the key's sequence of draws, so drawing more never changes it.
    """
    # Enough for a full set nearly always: about count^2 / (2 bound) draws repeat an earlier value.
    num_draws = count + 8 + 2 * count * count // bound
    while True:
        value = below(draw_bits(keys[:, None], np.arange(num_draws)), bound)
        packed = np.sort(value * num_draws + np.arange(num_draws), axis=1)
        value, order = packed // num_draws, packed % num_draws
        # Repeated values go last, so that none is chosen twice.
        order[:, 1:][value[:, 1:] == value[:, :-1]] = num_draws
        limit = np.partition(order, count - 1, axis=1)[:, count - 1 : count]
        if (limit < num_draws).all():
            return value[order <= limit].reshape(len(keys), count)
        num_draws *= 2


def _grid_spans(input_ids: NDArray[np.uint8], keys: MaskKeys, config: MaskConfig) -> _Spans:
    """Whole k-mer tokens of NTv2's grid: the share ``rate`` of those of each window, at random."""
    row, start = np.nonzero(grid_token_starts(input_ids, config.grid_k))
    num_tokens = np.bincount(row, minlength=len(input_ids))
    first_of_row = np.cumsum(num_tokens) - num_tokens
    number = np.arange(len(row)) - first_of_row[row]
    by_draw = np.lexsort((draw_bits(keys.place[row], number), row))
    # At least one where there is any, as for free spans.
    wanted = np.maximum(np.rint(config.rate * num_tokens), num_tokens > 0)
    chosen = np.sort(by_draw[number < wanted[row]])
    return _Spans(row[chosen], start[chosen], number[chosen], config.grid_k)


def grid_token_starts(input_ids: UInt8[np.ndarray, "batch length"], k: int) -> Bool[np.ndarray, "batch length"]:
    """First base of each whole k-mer token of NTv2's grid."""
    ids = torch.from_numpy(input_ids).long()
    cells = grid_cells(ids, torch.ones_like(ids, dtype=torch.bool), k)
    return (cells.is_start & cells.is_whole).numpy()
