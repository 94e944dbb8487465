"""Hold the routers' shares of boundaries at their targets while the weights change (docs/decisions/0014)."""

from collections.abc import Callable, Mapping

import torch

from ..chunking import NEAR_THRESHOLD
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from .metrics import Stages, Sums, add_sums, share_sums, unmasked

# Bases of a step, at least, on which shares are counted.
_SHARE_BASES = 4096

Cut = Callable[[torch.Tensor], Stages]
Reduce = Callable[[Sums], dict[str, float]]


def windows_every(global_batch_size: int, seq_length: int) -> int:
    """Every how many training windows one is to be looked at."""
    return max(1, round(global_batch_size * seq_length / _SHARE_BASES))


class ShareControl:
    """Moves the routers' offsets so that an optimiser step leaves the shares of boundaries where they should be.

    Looked at are some of the step's own windows, as they are without masks, grid and anchors: what a user of the model
    gets. What the step's change of weights did to the share on them is undone, so that the windows' own peculiarities
    cancel out, and ``router_offset_rate`` of what the share was off its target is added. A rate of 0 holds the offsets.

    Args:
        model: Whose routers.
        every: One of this many windows is looked at.
    """

    def __init__(self, model: HNetNTV2ForMaskedLM, every: int = 1):
        self.model = model
        self.every = every
        self._windows: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._before: Sums | None = None

    def look(self, batch: Mapping[str, torch.Tensor], cut: Cut) -> None:
        """Count on a micro-batch of the step, whose weights are not yet changed.

        Args:
            batch: As the data module gives it.
            cut: Gives the chunks of sequences of shape [windows, length].
        """
        counts = batch["window_index"] % self.every == 0
        runs = counts.clone()
        if not bool(runs.any()):
            runs[0] = True  # not counted, but sharded parameters are gathered by all ranks together
        windows = (unmasked(batch)[runs], counts[runs])
        self._windows.append(windows)
        self._before = add_sums(self._before, self._count([windows], cut))

    def settle(self, cut: Cut, reduce: Reduce) -> dict[str, float]:
        """Move the offsets, after the step's change of weights.

        Args:
            cut: See ``look``.
            reduce: Adds sums over all ranks.

        Returns:
            What ``look`` counted, of all ranks.
        """
        assert self._before is not None
        before = reduce(self._before)
        rate = self.model.config.router_offset_rate
        shares = [_share(before, stage) for stage in self._stages]
        self.model.observe_boundary_shares(shares)
        goals = [
            None if share is None else share + rate * (target - share)
            for share, target in zip(shares, self.model.config.target_ratios, strict=True)
        ]
        if rate > 0:
            self._move_offsets(goals, cut, reduce)
        self._windows, self._before = [], None
        return before

    def _move_offsets(self, goals: list[float | None], cut: Cut, reduce: Reduce) -> None:
        """Newton steps towards the goals, with the density of probabilities at the threshold for a derivative.

        A stage waits for one step of the stages around it, whose chunks are its positions, and takes two at least.
        """
        for number in range(1 + len(goals)):
            sums = reduce(self._count(self._windows, cut))
            for stage, router, goal in zip(self._stages, self.model.model.routers, goals, strict=True):
                share = _share(sums, stage)
                if stage <= number + 1 and goal is not None and share is not None:
                    step = (goal - share) / max(_density(sums, stage), 1.0)
                    router.beta.add_(max(-NEAR_THRESHOLD, min(NEAR_THRESHOLD, step))).clamp_(-1, 1)

    @property
    def _stages(self) -> range:
        return range(1, self.model.config.num_stages + 1)

    @torch.no_grad()
    def _count(self, windows: list[tuple[torch.Tensor, torch.Tensor]], cut: Cut) -> Sums:
        sums: Sums | None = None
        for ids, counts in windows:
            sums = add_sums(sums, share_sums(cut(ids), counts))
        assert sums is not None
        return sums


def _share(sums: Mapping[str, float], stage: int) -> float | None:
    """Boundaries, those of cap and guard included, among the counted positions; None where nothing was counted."""
    counted = sums[f"stage{stage}_counted"]
    return sums[f"stage{stage}_kept"] / counted if counted else None


def _density(sums: Mapping[str, float], stage: int) -> float:
    """Share of the counted positions per unit of p around the threshold."""
    return sums[f"stage{stage}_near"] / sums[f"stage{stage}_counted"] / (2 * NEAR_THRESHOLD)
