"""Pools of whole sequences, gathered window by window: no vector per base is kept."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..shapes import Float, Tensor

POOLS = ("mean", "max", "first", "bins")
NUM_BINS = 8


class PoolSums:
    """Gathers the pools of some sequences. The slow definition is ``pooling.pool`` on a whole sequence.

    Args:
        counted: [length] of each sequence: which of its bases count.
        pools: Of ``POOLS``.
    """

    def __init__(self, counted: Sequence[NDArray[np.bool_]], pools: Sequence[str]) -> None:
        self._counted, self._pools = counted, pools
        self._first = [int(each.argmax()) for each in counted]
        self._last = [len(each) - 1 - int(each[::-1].argmax()) for each in counted]
        # The mean always: a bin without a base gets it.
        self._num_slots = {"mean": 1} | {pool: num for pool, num in (("first", 1), ("bins", NUM_BINS)) if pool in pools}
        # [sequences, slots]: bases in each sum
        self._counts = np.stack([self._slots(index, 0, len(each)).sum(1) for index, each in enumerate(counted)])
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._greatest: dict[str, NDArray[np.float32]] = {}

    def _slots(self, index: int, start: int, end: int) -> NDArray[np.bool_]:
        """[slots, end - start] which bases [start, end) of a sequence go into which sum."""
        place = np.arange(start, end) - self._first[index]
        # From the first to the last base that counts, as ``pooling.position_bins`` has it.
        length = self._last[index] - self._first[index] + 1
        own = {
            "mean": lambda: np.ones((1, end - start), np.bool_),
            "first": lambda: place[None] == 0,
            "bins": lambda: place * NUM_BINS // length == np.arange(NUM_BINS)[:, None],
        }
        rows = [own[pool]() for pool in self._num_slots]
        return np.concatenate(rows) & self._counted[index][start:end]

    def add(
        self, layer: str, pieces: Sequence[tuple[int, int, int, int]], vectors: Float[Tensor, "batch length dim"]
    ) -> None:
        """Take the vectors of a batch.

        Args:
            layer: Where they come from.
            pieces: Of each row: index of the sequence, start and end in it of the bases to take, and their first place
                in the row.
            vectors: One per base.
        """
        shape = (len(pieces), sum(self._num_slots.values()), vectors.shape[1])
        weights, is_counted = np.zeros(shape, np.float32), np.zeros(vectors.shape[:2], np.bool_)
        for row, (index, start, end, place) in enumerate(pieces):
            taken = slice(place, place + end - start)
            weights[row, :, taken] = self._slots(index, start, end)
            is_counted[row, taken] = self._counted[index][start:end]
        sums = (torch.from_numpy(weights).to(vectors.device) @ vectors).cpu().numpy()
        total = self._sums.setdefault(layer, np.zeros((len(self._counted), *sums.shape[1:])))
        for row, piece in enumerate(pieces):
            total[piece[0]] += sums[row]  # in float64: a float32 sum over a chromosome loses the digits of a mean
        if "max" in self._pools:
            hidden = ~torch.from_numpy(is_counted).to(vectors.device)[..., None]
            found = vectors.masked_fill(hidden, -torch.inf).amax(1).cpu().numpy()
            lowest = np.full((len(self._counted), found.shape[1]), -np.inf, np.float32)
            greatest = self._greatest.setdefault(layer, lowest)
            for row, piece in enumerate(pieces):
                np.maximum(greatest[piece[0]], found[row], out=greatest[piece[0]])

    def finish(self) -> dict[str, NDArray[np.float32]]:
        """[sequences, dim] (bins: [sequences, bins x dim]) by ``layer_pool``; NaN where nothing counts."""
        pools = {}
        for layer, sums in self._sums.items():
            with np.errstate(invalid="ignore"):
                means = (sums / self._counts[..., None]).astype(np.float32)
            means = np.where(self._counts[..., None] > 0, means, means[:, :1])
            parts = np.split(means, np.cumsum([*self._num_slots.values()])[:-1], axis=1)
            by_pool = {pool: part.reshape(len(part), -1) for pool, part in zip(self._num_slots, parts, strict=True)}
            if "max" in self._pools:
                greatest = self._greatest[layer]
                by_pool["max"] = np.where(np.isneginf(greatest), np.float32(np.nan), greatest)
            pools |= {f"{layer}_{pool}": by_pool[pool] for pool in self._pools}
        return pools
