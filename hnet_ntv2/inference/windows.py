"""Sequences of any length as windows of bounded length: every base is kept once, with context on both sides of it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..errors import ConfigError
from ..shapes import Int, Tensor
from ..vocabulary import BASE_BITS, PAD_ID

DEFAULT_BATCH_BASES = 16384
# What models whose config does not tell the length of their training windows were cut into before.
_WINDOW_OF_UNKNOWN_TRAINING = 6144
_MOST_DEFAULT_FLANK = 512
# Batches' worth of bases that are sorted by length together; a longer sequence is a group of its own.
_BATCHES_PER_GROUP = 32
# Batches' worth of windows that are held together where a sequence is worked through piece by piece.
_BATCHES_PER_BLOCK = 8

Progress = Callable[[int], None]
"""Called with the bases done so far, each base counted once."""


class Window(NamedTuple):
    """Bases [start, end) that the model sees, and [keep_start, keep_end) of them that are kept."""

    start: int
    end: int
    keep_start: int
    keep_end: int


class Piece(NamedTuple):
    """One row of a batch: a window of one of the sequences."""

    sequence: int
    window: Window


@runtime_checkable
class HasBases(Protocol):
    """Anything with encoded bases, [length]."""

    @property
    def bases(self) -> NDArray[np.uint8]: ...


_Sequence = TypeVar("_Sequence", bound=HasBases)


def checked_flank(window: int, flank: int | None, batch_bases: int = DEFAULT_BATCH_BASES) -> int:
    """The flank, by default an eighth of the window and at most 512 bases.

    Raises:
        ConfigError: Nothing could be kept with these sizes.
    """
    flank = max(min(window // 8, _MOST_DEFAULT_FLANK), 1) if flank is None else flank
    if flank < 1:
        raise ConfigError(f"flank={flank}: at least one base of context must be discarded on each side")
    if window - 2 * flank < 3:
        raise ConfigError(f"window={window} with flank={flank} keeps nothing; it must be at least 2 x flank + 3")
    if batch_bases < 1:
        raise ConfigError(f"batch_bases={batch_bases} must be positive")
    return flank


def default_window(config: HNetNTV2Config, unknown: int = _WINDOW_OF_UNKNOWN_TRAINING) -> int:
    """The length of the windows that a model was trained on; ``unknown`` bases where its config does not say."""
    return config.training_length or unknown


def plan_windows(length: int, window: int, flank: int) -> Iterator[Window]:
    """Cut a sequence into overlapping windows.

    A sequence of at most ``window`` bases is one window. A longer one is cut into evenly spread windows that overlap by
    at least twice the flank; each keeps what is nearer to its middle than to its neighbour's, so that at least
    ``flank`` bases on each side of a kept one were seen, but for the sequence's own ends. The plan of the reverse
    complement is the mirror image: hence an odd number of windows where the length is odd.

    Args:
        length: Bases of the sequence.
        window: Most bases of a window; at least 2 x ``flank`` + 3.
        flank: Least bases of context that are discarded at an inner edge.

    Yields:
        The windows from left to right, each computed when it is asked for: a chromosome has hundreds of thousands.
    """
    if length <= window:
        yield Window(0, length, 0, length)
        return
    step = window - 2 * flank - 2  # two less than would do: starts are rounded
    count = max(-(-(length - 2 * flank) // step), 2)
    count += length % 2 and count % 2 == 0
    half = count // 2

    def span(index: int) -> tuple[int, int]:
        if index >= count - half:  # the mirror image of one in the left half
            start, end = span(count - 1 - index)
            return length - end, length - start
        if index == half:
            return (length - window + 1) // 2, length - (length - window + 1) // 2
        start = index * (length - window) // (count - 1)
        return start, start + window

    def cut(index: int) -> int:
        """Where window ``index`` hands over to the next one."""
        if index >= half:
            return length - cut(count - 2 - index)
        return (span(index)[1] + span(index + 1)[0]) // 2

    keep_start = 0
    for index in range(count):
        keep_end = cut(index) if index < count - 1 else length
        yield Window(*span(index), keep_start, keep_end)
        keep_start = keep_end


def window_blocks(lengths: Iterable[int], window: int, flank: int, batch_bases: int) -> Iterator[list[Piece]]:
    """The windows of consecutive sequences in blocks of bounded size, the same whatever lies behind a block.

    Args:
        lengths: Bases of each sequence.
        window: See ``plan_windows``.
        flank: See ``plan_windows``.
        batch_bases: A block of full windows makes a whole number of forward passes of this size.
    """
    enough = _BATCHES_PER_BLOCK * max(batch_bases // window, 1) * window
    block: list[Piece] = []
    num_bases = 0
    for index, length in enumerate(lengths):
        for each in plan_windows(length, window, flank):
            block.append(Piece(index, each))
            num_bases += each.end - each.start
            if num_bases >= enough:
                yield block
                block, num_bases = [], 0
    if block:
        yield block


def group_sequences(sequences: Iterable[_Sequence], batch_bases: int) -> Iterator[list[_Sequence]]:
    """Consecutive sequences that are worth sorting by length together, so that memory stays bounded."""
    group: list[_Sequence] = []
    num_bases = 0
    for sequence in sequences:
        group.append(sequence)
        num_bases += len(sequence.bases)
        if num_bases >= batch_bases * _BATCHES_PER_GROUP:
            yield group
            group, num_bases = [], 0
    if group:
        yield group


def batches_by_length(lengths: Sequence[int], batch_bases: int) -> Iterator[list[int]]:
    """Indices of rows of similar length, longest first, at most ``batch_bases`` with padding (but at least one row)."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batch: list[int] = []
    for index in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_bases:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pad_rows(rows: Sequence[NDArray[np.uint8]], device: torch.device) -> Int[Tensor, "batch length"]:
    """Character ids of encoded rows (soft masks dropped), padded on the right."""
    padded = np.full((len(rows), max(map(len, rows))), PAD_ID, dtype=np.int64)
    for row, bases in enumerate(rows):
        padded[row, : len(bases)] = bases & BASE_BITS
    return torch.from_numpy(padded).to(device)


def window_batches(
    sequences: Sequence[NDArray[np.uint8]], window: int, flank: int | None, batch_bases: int, device: torch.device
) -> Iterator[tuple[list[Piece], Int[Tensor, "batch length"]]]:
    """All windows of some sequences, batched by length.

    Yields:
        The rows of a batch, and their padded character ids.
    """
    flank = checked_flank(window, flank, batch_bases)
    pieces = [
        Piece(index, each) for index, bases in enumerate(sequences) for each in plan_windows(len(bases), window, flank)
    ]
    for chosen in batches_by_length([each.window.end - each.window.start for each in pieces], batch_bases):
        batch = [pieces[index] for index in chosen]
        rows = [sequences[piece.sequence][piece.window.start : piece.window.end] for piece in batch]
        yield batch, pad_rows(rows, device)
