"""Both strands in one batch: stack them, run the network, split what it decided, average what it computed.

Stacked rows are the batch's forward rows, then the reverse complements of the same rows in the same order. Everything
of a reverse row counts positions along that strand, until ``average_strands`` mirrors it.
"""

from typing import Any, Literal, TypeVar, cast

import torch

from .errors import InputError
from .kmers import flip_rows, reverse_complement
from .levels import Chunking, Level
from .shapes import Bool, Float, Int, Shaped, Tensor

Strands = Literal["forward", "both"]
_Record = TypeVar("_Record", Chunking, Level)


def stack_strands(
    input_ids: Int[Tensor, "batch length"], is_valid: Bool[Tensor, "batch length"], strands: str
) -> tuple[Int[Tensor, "rows length"], Bool[Tensor, "rows length"]]:
    """The ids and the validity of the rows that the network runs on.

    Raises:
        InputError: ``strands`` is neither "forward" nor "both".
    """
    if strands == "forward":
        return input_ids, is_valid
    if strands != "both":
        raise InputError(f"strands={strands!r}; choose 'forward' or 'both'")
    # The reverse complement stays right-padded, so that its valid positions are those of the forward strand.
    return torch.cat([input_ids, reverse_complement(input_ids, is_valid)]), is_valid.repeat(2, 1)


def stack_flag(
    flag: Shaped[Tensor, "batch length"] | bool, is_valid: Bool[Tensor, "batch length"], num_rows: int
) -> Shaped[Tensor, "rows length"] | bool:
    """A flag per base of the forward strand for each of the stacked rows; a single value holds for all rows."""
    if isinstance(flag, bool) or num_rows == len(is_valid):
        return flag
    return torch.cat([flag, flip_rows(flag, is_valid)])


def select_rows(record: _Record, rows: slice) -> _Record:
    """Some rows of all fields of a record."""
    fields = (None if field is None else field[rows] for field in record)
    return type(record)(*cast(Any, fields))


def split_strands(
    chunkings: tuple[Chunking, ...], batch_size: int
) -> tuple[tuple[Chunking, ...], tuple[Chunking, ...] | None]:
    """The chunkings of the forward rows, and those of the reverse rows along their own strand (None without any)."""
    if len(chunkings[0].is_valid) == batch_size:
        return chunkings, None  # not a view: the ratio loss can be differentiated by the p that a user gets
    forward, reverse = slice(batch_size), slice(batch_size, None)
    return tuple(select_rows(each, forward) for each in chunkings), tuple(
        select_rows(each, reverse) for each in chunkings
    )


def in_forward_frame(
    values: Shaped[Tensor, "rows length ..."], is_valid: Bool[Tensor, "batch length"]
) -> Shaped[Tensor, "rows length ..."]:
    """A value per base of stacked rows, with those of the reverse rows mirrored to the bases of the forward strand."""
    if len(values) == len(is_valid):
        return values
    forward, reverse = values.chunk(2)
    return torch.cat([forward, flip_rows(reverse, is_valid)])


def average_strands(
    values: Float[Tensor, "rows length ..."], is_valid: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch length ..."]:
    """The mean over strands of a value per base, at the bases of the forward strand."""
    if len(values) == len(is_valid):
        return values
    forward, reverse = values.chunk(2)
    return (forward + flip_rows(reverse, is_valid)) / 2


def average_letters(
    log_probs: Float[Tensor, "rows length 4"], is_valid: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch length 4"]:
    """``average_strands`` of log-probabilities of A, C, G, T, which the reverse strand spells T, G, C, A."""
    if len(log_probs) > len(is_valid):
        forward, reverse = log_probs.chunk(2)
        log_probs = torch.cat([forward, reverse.flip(-1)])
    return average_strands(log_probs, is_valid)
