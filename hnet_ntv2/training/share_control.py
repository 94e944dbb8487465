"""Hold the routers' shares of boundaries at their targets while the weights change (docs/decisions/0014)."""

import functools
import math
from collections.abc import Callable, Mapping

import torch

from ..chunking import BoundaryReason
from ..hierarchy import StageOutput
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..shapes import Float, Tensor
from .metrics import Reduce, Stages, Sums, add_sums, reduced, share_sums, unmasked

# About so many bases of a step are looked at, in whole windows.
_SHARE_BASES = 4096
# How far an offset moves at most at a time, and in how many bins probabilities this near to the threshold are counted.
_REACH, _BINS = 0.05, 200

Chunker = Callable[[Tensor], Stages]


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
        self.model.moves_offsets = False
        self.every = every
        self._windows: list[tuple[Tensor, Tensor]] = []
        self._seen: list[tuple[Sums, Tensor]] = []

    def look(self, batch: Mapping[str, Tensor], cut: Chunker, ranks: int = 1) -> None:
        """Count on a micro-batch of the step, whose weights are not yet changed.

        Args:
            batch: As the data module gives it.
            cut: Gives the chunks of sequences of shape [windows, length].
            ranks: How many ranks must run the model together, because each holds a part of it.
        """
        counts = batch["window_index"] % self.every == 0
        runs = counts.clone()
        if not bool(runs.any()):
            if not self._is_another_rank_counting(batch["window_index"], ranks):
                return
            runs[0] = True  # takes part, uncounted
        windows = (unmasked(batch)[runs], counts[runs])
        with torch.no_grad():
            stages = cut(windows[0])
        self._windows.append(windows)
        self._seen.append((share_sums(stages, windows[1]), _tallies(stages, windows[1])))

    def settle(self, cut: Chunker, reduce: Reduce) -> dict[str, float]:
        """Move the offsets, after the step's change of weights.

        Args:
            cut: See ``look``.
            reduce: Adds a tensor over all ranks.

        Returns:
            What ``look`` counted, of all ranks; and ``stage1_found``, ...: the shares that the change of weights led
            to, before the offsets moved.
        """
        before = reduced(functools.reduce(add_sums, (sums for sums, _ in self._seen), self._no_sums()), reduce)
        rate, targets = self.model.config.router_offset_rate, self.model.config.target_ratios
        tallies = reduce(sum((each for _, each in self._seen), start=self._no_tallies())).cpu()
        shares = tallies[:, 1] / tallies[:, 0]
        found = self._move_offsets(shares + rate * (torch.tensor(targets) - shares), cut, reduce)
        self._windows, self._seen = [], []
        return {**before, **{f"stage{i}_found": math.nan if x is None else x for i, x in enumerate(found, start=1)}}

    def _move_offsets(self, goals: Float[Tensor, " stages"], cut: Chunker, reduce: Reduce) -> list[float | None]:
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
            tallies = reduce(self._count(cut)).cpu()
            for stage, router in enumerate(self.model.model.routers[: number + 1]):
                counted, claimed, *bins = tallies[stage].tolist()
                if stage == len(found):
                    found.append(claimed / counted if counted else None)
                goal = float(goals[stage])  # NaN where nothing was counted before
                if counted and moves and math.isfinite(goal):
                    router.beta.add_(_offset_step(goal * counted - claimed, bins)).clamp_(-1, 1)
        return found

    def _no_sums(self) -> Sums:
        zero = torch.zeros((), dtype=torch.float64, device=self.model.device)
        stages = range(1, self.model.config.num_stages + 1)
        return {f"stage{i}_{name}": zero for i in stages for name in ("counted", "wanted", "kept")}

    def _no_tallies(self) -> Float[Tensor, "stages columns"]:
        shape = (self.model.config.num_stages, 2 + _BINS)
        return torch.zeros(shape, dtype=torch.float64, device=self.model.device)

    def _is_another_rank_counting(self, window_index: Tensor, ranks: int) -> bool:
        """Whether one of the windows that all ranks are given together is looked at."""
        together = len(window_index) * ranks
        first = int(window_index[0]) // together * together
        return -(-first // self.every) * self.every < first + together

    @torch.no_grad()
    def _count(self, cut: Chunker) -> Float[Tensor, "stages columns"]:
        return sum((_tallies(cut(ids), counts) for ids, counts in self._windows), start=self._no_tallies())


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
