"""Both strands as one batch, forward rows first, and their results joined in the forward frame."""

from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch

from .kmers import flip_rows
from .levels import Chunking, Level
from .shapes import Bool, Float, Int, Shaped, Tensor

Strands = Literal["forward", "both"]
_Record = TypeVar("_Record", Chunking, Level)


class StrandRun(NamedTuple):
    """One batch of rows through the network, before strands are joined."""

    input_ids: Int[Tensor, "rows length"]
    is_valid: Bool[Tensor, "rows length"]
    hidden: Float[Tensor, "rows length dim"]
    stages: tuple[Chunking, ...]
    final: Level
    hidden_states: dict[str, Tensor]
    num_strands: int

    def join(self, values: Float[Tensor, "rows length ..."]) -> Float[Tensor, "batch length ..."]:
        """The mean over strands in the forward frame."""
        if self.num_strands == 1:
            return values
        forward, reverse = values.chunk(2)
        return (forward + flip_rows(reverse, self.is_valid.chunk(2)[1])) / 2

    def strand_stages(self) -> tuple[tuple[Chunking, ...], tuple[Chunking, ...] | None]:
        """Chunking per strand, each in its own frame."""
        if self.num_strands == 1:
            return self.stages, None
        forward, reverse = (tuple(_strand(chunking, i, 2) for chunking in self.stages) for i in (0, 1))
        return forward, reverse

    def forward_states(self) -> dict[str, Tensor] | None:
        """The named states of the forward strand, if they were asked for."""
        states = {name: state.chunk(self.num_strands)[0] for name, state in self.hidden_states.items()}
        return states or None

    def forward_chunks(self) -> Level:
        """The trunk's output for the forward strand."""
        return _strand(self.final, 0, self.num_strands)


def _strand(record: _Record, number: int, num_strands: int) -> _Record:
    """The rows of one strand in all fields of a record."""
    fields = (None if field is None else field.chunk(num_strands)[number] for field in record)
    return type(record)(*cast(Any, fields))


def both_strands(flag: Shaped[Tensor, "batch length"] | bool, is_valid: Bool[Tensor, "batch length"]):
    """A per-base flag for the forward rows and, mirrored, for the reverse ones."""
    return flag if isinstance(flag, bool) else torch.cat([flag, flip_rows(flag, is_valid)])
