"""The phases of a warm start: which learning rates, forced cells, anchors and loss weights hold at each step."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..data.ramps import CellShares, Piece, Ramp
from ..errors import ConfigError
from .settings import PhaseSettings, WarmStartSettings

logger = logging.getLogger(__name__)

PHASES = ("align", "release", "joint")

_SHARES = ("grid_share", "anchor_share")
_WEIGHTS = ("ratio_weight", "hidden_state_weight")


class PhaseState(NamedTuple):
    """The values of one optimiser step.

    Attributes:
        name: Of the phase.
        number: 0 align, 1 release, 2 joint.
        grid_share: Share of forced cells.
        anchor_share: Share of anchored flanks.
        weights: Factor of the ratio loss ("ratio"), and the teacher's weight ("hidden_state").
    """

    name: str
    number: int
    grid_share: float
    anchor_share: float
    weights: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """For the log."""
        values = {"number": self.number, "grid_share": self.grid_share, "anchor_share": self.anchor_share}
        return {f"phase/{name}": float(value) for name, value in values.items()} | {
            f"phase/{name}_weight": value for name, value in self.weights.items()
        }


@dataclass(frozen=True)
class PhasePlan:
    """The phases of a run. All values are functions of the step, so a run resumed inside a phase goes on exactly.

    Attributes:
        steps: Optimiser steps of each phase.
        multipliers: Learning-rate multipliers by group that replace the optimizer's, per phase.
        ramps: Shares and weights by the names of ``PhaseSettings``.
        is_warm_start: False for a run of one phase, whose cells are never forced.
    """

    steps: tuple[int, ...]
    multipliers: tuple[dict[str, float], ...]
    ramps: dict[str, Ramp]
    is_warm_start: bool

    @classmethod
    def single(cls, max_steps: int) -> "PhasePlan":
        """A run from random weights, or one that goes on with trained ones: joint from the first step."""
        return cls((0, 0, max_steps), ({}, {}, {}), _ramps((PhaseSettings(),) * 3, (0, 0, max_steps)), False)

    @classmethod
    def of(cls, settings: WarmStartSettings, max_steps: int, multipliers: Mapping[str, float]) -> "PhasePlan":
        """The phases of a warm start; the last one gets the steps that the others leave.

        A run that is shorter than the first two, such as a trial of a few steps, ends inside them, with a warning.

        Args:
            settings: Of the warm start.
            max_steps: Optimiser steps of the run.
            multipliers: The optimizer's, by group.

        Raises:
            ConfigError: Naming the setting.
        """
        phases = (settings.align, settings.release, settings.joint)
        for name, phase in zip(PHASES, phases, strict=True):
            _check(name, phase, multipliers)
        if settings.joint.steps:
            raise ConfigError(f"warm_start.joint.steps={settings.joint.steps}: leave it 0, joint takes what is left")
        left = max_steps - settings.align.steps - settings.release.steps  # a warning, not an error: trials are short
        if left <= 0:
            logger.warning(
                "warm_start.align.steps=%d and release.steps=%d fill trainer.max_steps=%d: the run ends before its "
                "chunks are free; give it more steps, or the phases fewer",
                *(settings.align.steps, settings.release.steps, max_steps),
            )
        steps = (settings.align.steps, settings.release.steps, max(left, 0))
        return cls(steps, tuple(dict(phase.multipliers) for phase in phases), _ramps(phases, steps), True)

    def number_at(self, step: int) -> int:
        """Number of the phase that a step (from 0) belongs to."""
        return 0 if step < self.steps[0] else 1 if step < self.steps[0] + self.steps[1] else 2

    def at(self, step: int) -> PhaseState:
        """The values of a step (from 0)."""
        number = self.number_at(step)
        values = {name: float(ramp(step)) for name, ramp in self.ramps.items()}
        weights = {name.removesuffix("_weight"): values[name] for name in _WEIGHTS}
        return PhaseState(PHASES[number], number, values["grid_share"], values["anchor_share"], weights)

    def rate_factor(self, step: int, group: str, multipliers: Mapping[str, float]) -> float:
        """Factor on the learning rate of a group, on top of the optimizer's multiplier for it."""
        own = self.multipliers[self.number_at(step)].get(group)
        # Equal ones first: 0 / 0 for a group that is frozen throughout
        return 1.0 if own is None or multipliers[group] == own else own / multipliers[group]

    def cell_shares(self, samples_per_step: int) -> CellShares | None:
        """Shares of forced cells and anchors for the data module; None for a run without a warm start."""
        if not self.is_warm_start:
            return None
        return CellShares(self.ramps["grid_share"], self.ramps["anchor_share"], samples_per_step)

    def uses_teacher(self) -> bool:
        """Whether the teacher has a weight above 0 somewhere."""
        # A skipped phase does not count: its weight would load the source for nothing.
        pieces = self.ramps["hidden_state_weight"].pieces
        return any(piece.steps and max(piece.start, piece.end) > 0 for piece in pieces)

    def table(self) -> str:
        """The phases as a table for the user."""
        if not self.is_warm_start:
            return f"joint for {self.steps[-1]:,} steps (no warm start)"
        weights = _WEIGHTS if self.uses_teacher() else _WEIGHTS[:1]
        titles = ["grid", "anchors", *(name.removesuffix("_weight") for name in weights)]
        head = " ".join(f"{title:>12}" for title in titles)
        rows = [f"{'phase':<8} {'steps':>8} {head}  learning-rate multipliers"]
        for number, name in enumerate(PHASES):
            shares = [_span(self.ramps[key].pieces[number]) for key in (*_SHARES, *weights)]
            rates = ", ".join(f"{group} {value:g}" for group, value in self.multipliers[number].items()) or "as above"
            rows.append(
                f"{name:<8} {self.steps[number]:>8,} " + " ".join(f"{text:>12}" for text in shares) + f"  {rates}"
            )
        return "\n".join(rows)


def _ramps(phases: tuple[PhaseSettings, ...], steps: tuple[int, ...]) -> dict[str, Ramp]:
    def ramp(name: str) -> Ramp:
        ends = [getattr(phase, name) for phase in phases]
        return Ramp(tuple(Piece(count, values[0], values[-1]) for count, values in zip(steps, ends, strict=True)))

    return {name: ramp(name) for name in (*_SHARES, *_WEIGHTS)}


def _check(name: str, phase: PhaseSettings, multipliers: Mapping[str, float]) -> None:
    where = f"warm_start.{name}"
    if phase.steps < 0:
        raise ConfigError(f"{where}.steps={phase.steps} must not be negative")
    for key in (*_SHARES, *_WEIGHTS):
        values, most = getattr(phase, key), 1.0 if key in _SHARES else float("inf")
        if len(values) not in (1, 2) or not all(0 <= value <= most for value in values):
            limit = " between 0 and 1" if key in _SHARES else " of at least 0"
            raise ConfigError(f"{where}.{key}={list(values)} must be one number or two (first, last step){limit}")
    for group, value in phase.multipliers.items():
        if group not in multipliers:
            raise ConfigError(f"{where}.multipliers.{group}: no such group; there are {', '.join(multipliers)}")
        # rate_factor divides by the optimizer's multiplier
        if value < 0 or (multipliers[group] == 0 and value > 0):
            raise ConfigError(
                f"{where}.multipliers.{group}={value}: it must not be negative, nor above 0 where "
                f"optimizer.multipliers.{group} is 0"
            )


def _span(piece: Piece) -> str:
    return f"{piece.start:g}" if piece.start == piece.end else f"{piece.start:g} to {piece.end:g}"
