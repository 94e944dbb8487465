"""Values per optimiser step: straight lines, one after the other."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError


class Piece(NamedTuple):
    """``steps`` optimiser steps from the value ``start`` (at the first of them) to ``end`` (at the last)."""

    steps: int
    start: float
    end: float


@dataclass(frozen=True)
class Ramp:
    """A value per optimiser step.

    Attributes:
        pieces: In order; pieces without steps are skipped. After the last piece the value stays at its end.

    Raises:
        ConfigError: if there is no piece, or one has a negative number of steps.
    """

    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        if not self.pieces or min(piece.steps for piece in self.pieces) < 0:
            raise ConfigError(f"pieces {self.pieces}: at least one is needed, none with a negative number of steps")

    def __call__(self, step: int | NDArray[np.int64]) -> NDArray[np.float64]:
        """The value at each step, the first step being 0."""
        step = np.maximum(np.asarray(step, dtype=np.int64), 0)
        value = np.full(step.shape, self.pieces[-1].end, dtype=np.float64)
        first = 0
        for piece in self.pieces:
            inside = (step >= first) & (step < first + piece.steps)
            share = (step - first) / max(piece.steps - 1, 1)  # a piece of one step has its start only
            value = np.where(inside, piece.start + (piece.end - piece.start) * share, value)
            first += piece.steps
        return value


@dataclass(frozen=True)
class CellShares:
    """Share of NTv2's cells that are forced, and of masked runs with anchors, at each training sample.

    Attributes:
        grid: Share of cells on NTv2's grid, and of windows whose masks lie on it, per optimiser step.
        anchors: Share of the flanks of masked runs that form an anchor.
        samples_per_step: Windows of an optimiser step over all devices.
    """

    grid: Ramp
    anchors: Ramp
    samples_per_step: int

    def at(self, counter: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Grid share and anchor share of each sample counter."""
        # Negative counters are filling, whose values are not used.
        step = np.maximum(counter, 0) // self.samples_per_step
        return self.grid(step), self.anchors(step)
