"""Hold the routers' shares of boundaries at their targets while the weights change (docs/decisions/0014)."""

import math
from collections.abc import Callable, Mapping

import torch

from ..chunking import BoundaryReason
from ..hierarchy import StageOutput
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..shapes import Float, Tensor
from .metrics import Stages, Sums, add_sums, share_sums, unmasked

# Bases of a step, at least, on which shares are counted.
_SHARE_BASES = 4096
# How far an offset moves at most at a time, and in how many bins probabilities this near to the threshold are counted.
_REACH, _BINS = 0.05, 200

Cut = Callable[[Tensor], Stages]
Reduce = Callable[[Sums], dict[str, float]]
ReduceTensor = Callable[[Tensor], Tensor]


def windows_every(global_batch_size: int, seq_length: int) -> int:
    """Every how many training windows one is to be looked at."""
    return max(1, round(global_batch_size * seq_length / _SHARE_BASES))


class ShareControl:
    """Moves the routers' offsets so that an optimiser step leaves the shares of boundaries where they should be.

    Looked at are some of the step's own windows, as they are without masks, grid and anchors: what a user of the model
    gets, except that the guard is not counted, behind which nobody sees how far off a router is. What the step's change
    of weights did to the share on them is undone, so that the windows' own peculiarities cancel out, and
    ``router_offset_rate`` of what the share was off its target is added. A rate of 0 holds the offsets.

    Args:
        model: Whose routers.
        every: One of this many windows is looked at.
    """

    def __init__(self, model: HNetNTV2ForMaskedLM, every: int = 1):
        self.model = model
        self.every = every
        self._windows: list[tuple[Tensor, Tensor]] = []
        self._before: Sums | None = None
        self._tallies: Tensor | None = None

    def look(self, batch: Mapping[str, Tensor], cut: Cut) -> None:
        """Count on a micro-batch of the step, whose weights are not yet changed.

        Args:
            batch: As the data module gives it.
            cut: Gives the chunks of sequences of shape [windows, length].
        """
        counts = batch["window_index"] % self.every == 0
        runs = counts.clone()
        if not bool(runs.any()):
            runs[0] = True  # not counted, but sharded parameters are gathered by all ranks together
        ids, counts = unmasked(batch)[runs], counts[runs]
        with torch.no_grad():
            stages = cut(ids)
        tallies = _tallies(stages, counts)
        self._windows.append((ids, counts))
        self._before = add_sums(self._before, share_sums(stages, counts))
        self._tallies = tallies if self._tallies is None else self._tallies + tallies

    def settle(self, cut: Cut, reduce: Reduce, reduce_tensor: ReduceTensor) -> dict[str, float]:
        """Move the offsets, after the step's change of weights.

        Args:
            cut: See ``look``.
            reduce: Adds sums over all ranks.
            reduce_tensor: Adds a tensor over all ranks.

        Returns:
            What ``look`` counted, of all ranks; and ``stage1_found``, ...: the shares that the change of weights led
            to, F of the ratio loss, so that the loss goes on to see what the offsets make up for.
        """
        assert self._before is not None
        assert self._tallies is not None
        before = reduce(self._before)
        rate, targets = self.model.config.router_offset_rate, self.model.config.target_ratios
        tallies = reduce_tensor(self._tallies).cpu()
        shares = tallies[:, 1] / tallies[:, 0]
        found = self._move_offsets(shares + rate * (torch.tensor(targets) - shares), cut, reduce_tensor)
        self.model.observe_boundary_shares(found)
        self._windows, self._before, self._tallies = [], None, None
        return {**before, **{f"stage{i}_found": math.nan if x is None else x for i, x in enumerate(found, start=1)}}

    def _move_offsets(
        self, goals: Float[Tensor, " stages"], cut: Cut, reduce_tensor: ReduceTensor
    ) -> list[float | None]:
        """Put each threshold where the goal says, as far as the probabilities that were counted tell.

        They tell it exactly but for the cap and the outer stages, whose chunks are a stage's positions; so a stage
        waits until those around it have moved, and each moves twice at least.

        Returns:
            The share of each stage before its offset moved: what the step's change of weights made of it. None where
            nothing was counted.
        """
        found: list[float | None] = []
        moves = self.model.config.router_offset_rate > 0
        for number in range(1 + len(goals)):
            tallies = reduce_tensor(self._count(cut)).cpu()
            for stage, router in enumerate(self.model.model.routers[: number + 1]):
                counted, claimed, *bins = tallies[stage].tolist()
                if stage == len(found):
                    found.append(claimed / counted if counted else None)
                if counted and moves:
                    router.beta.add_(_offset_step(float(goals[stage]) * counted - claimed, bins)).clamp_(-1, 1)
        return found

    @torch.no_grad()
    def _count(self, cut: Cut) -> Float[Tensor, "stages columns"]:
        return torch.stack([_tallies(cut(ids), counts) for ids, counts in self._windows]).sum(0)


def _tallies(stages: Stages, counts: Tensor) -> Float[Tensor, "stages columns"]:
    return torch.stack([_tally(stage, counts) for stage in stages])


def _tally(stage: StageOutput, counts: Tensor) -> Float[Tensor, " columns"]:
    """Positions that the router decides; boundaries there but for the guard; p around the threshold in bins."""
    is_counted = stage.is_counted & counts[:, None]
    claimed = ((stage.probability > 0.5) | (stage.reason == BoundaryReason.CAP)) & is_counted
    place = ((stage.probability[is_counted].double() - 0.5 + _REACH) / (2 * _REACH) * _BINS).floor().long()
    bins = torch.bincount(place[(place >= 0) & (place < _BINS)], minlength=_BINS)
    return torch.cat([torch.stack([is_counted.sum(), claimed.sum()]), bins]).double()


def _offset_step(wanted: float, bins: list[float]) -> float:
    """How far to move an offset so that ``wanted`` more positions are over the threshold, fewer if negative."""
    middle = _BINS // 2
    nearest_first = bins[:middle][::-1] if wanted > 0 else bins[middle:]
    left, width = abs(wanted), 2 * _REACH / _BINS
    for number, count in enumerate(nearest_first):
        if left <= count:
            part = left / count if count else 0.0
            return (number + part) * width if wanted > 0 else -(number + part) * width
        left -= count
    return _REACH if wanted > 0 else -_REACH
