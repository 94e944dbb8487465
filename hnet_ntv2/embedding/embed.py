"""Vectors of sequences: pools of any layers from one forward pass, and one vector per base or chunk on demand."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError
from ..inference.windows import (
    DEFAULT_BATCH_BASES,
    Piece,
    Progress,
    checked_flank,
    default_window,
    group_sequences,
    window_batches,
)
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..strands import Strands
from ..vocabulary import BASE_BITS, is_clean_base
from .layers import LAST_LAYER, ChunkVectors, ForwardPass, layer_names
from .pools import POOLS, PoolSums
from .sequences import NamedSequence

ALL_LAYERS = "all"


@dataclass(frozen=True)
class EmbedSettings:
    """How to embed.

    Attributes:
        layers: "last" (the model's output per base) or others of ``layer_names``; "all" for each of them. Every base of
            a chunk gets the state of the chunk.
        pools: Of "mean", "max" and "first" over the bases that count, and "bins", the means of 8 equal parts side by
            side; as ``pooling.pool`` defines them.
        strands: "both" averages the vectors of both strands in the forward frame; "forward" runs one.
        per_base: Also keep one vector per base, of the first layer.
        per_chunk: Also keep one vector per final chunk of the forward strand.
        window: Longer sequences are cut into overlapping windows of at most this many bases; None for the length of the
            model's training windows (``inference.windows.default_window``).
        flank: Least bases of context that are discarded at the inner edge of a window; None for an eighth of the
            window, at most 512.
        batch_bases: Most bases of one forward pass, padding included, before strands.
    """

    layers: tuple[str, ...] = (LAST_LAYER,)
    pools: tuple[str, ...] = ("mean",)
    strands: Strands = "both"
    per_base: bool = False
    per_chunk: bool = False
    window: int | None = None
    flank: int | None = None
    batch_bases: int = DEFAULT_BATCH_BASES

    def resolved(self, model: HNetNTV2ForMaskedLM) -> "EmbedSettings":
        """The settings with their defaults for a model filled in.

        Raises:
            ConfigError: A layer or pool is unknown, or window and flank leave nothing to keep.
        """
        known = layer_names(model.config)
        layers = known if ALL_LAYERS in self.layers else self.layers
        for what, names, allowed in (("layer", layers, known), ("pool", self.pools, POOLS)):
            for name in names:
                if name not in allowed:
                    raise ConfigError(f"{what} {name!r} is unknown; there are {', '.join(allowed)}")
            if not names:
                raise ConfigError(f"no {what} is named; choose of {', '.join(allowed)}")
        window = default_window(model.config) if self.window is None else self.window
        flank = checked_flank(window, self.flank, self.batch_bases)
        layers, pools = (tuple(dict.fromkeys(names)) for names in (layers, self.pools))
        return dataclasses.replace(self, layers=layers, pools=pools, window=window, flank=flank)


class Embedding(NamedTuple):
    """The vectors of one sequence.

    Attributes:
        sequence: What was embedded; only its ``bases`` are gone.
        vectors: [dim] float32 by ``layer_pool`` (bins: [8 x dim]), such as ``last_mean``, over its A, C, G and T; NaN
            if it has none.
        num_bases: Number of its A, C, G and T, without context.
        per_base: [length, dim] float32 vectors of all bases, N included; None unless the settings want them.
        per_chunk: The final chunks; None unless the settings want them. Where two windows meet, a chunk can be in two
            parts, each with the vector that its window gives.
    """

    sequence: NamedSequence
    vectors: dict[str, NDArray[np.float32]]
    num_bases: int
    per_base: NDArray[np.float32] | None = None
    per_chunk: ChunkVectors | None = None

    @property
    def name(self) -> str:
        """Of the sequence."""
        return self.sequence.name

    @property
    def vector(self) -> NDArray[np.float32]:
        """The first layer's first pool."""
        return next(iter(self.vectors.values()))


def embed_sequences(
    model: HNetNTV2ForMaskedLM,
    sequences: Iterable[NamedSequence],
    settings: EmbedSettings | None = None,
    progress: Progress | None = None,
) -> Iterator[Embedding]:
    """The vectors of sequences, in their order.

    The model sees N, but N does not count in a pool. Lower case (the soft mask) reads as upper case. A sequence
    longer than ``settings.window`` is cut into overlapping windows whose flanks are discarded, so that each base has
    context (``inference.windows.plan_windows``).

    Args:
        model: In eval mode.
        sequences: Read as they are needed.
        settings: None for the defaults of ``EmbedSettings``.
        progress: Called after each forward pass.

    Raises:
        ConfigError: As ``EmbedSettings.resolved``.
    """
    # Outside the generator, so that wrong settings raise at the call and not at the first result.
    groups = embed_groups(model, sequences, settings, progress)
    return (embedding for group in groups for embedding in group)


def embed_groups(
    model: HNetNTV2ForMaskedLM,
    sequences: Iterable[NamedSequence],
    settings: EmbedSettings | None = None,
    progress: Progress | None = None,
) -> Iterator[list[Embedding]]:
    """``embed_sequences`` in the groups that are computed together; one depends on no group before it."""
    resolved = (settings or EmbedSettings()).resolved(model)
    return _embed_groups(model, sequences, resolved, progress or (lambda done: None))


def _embed_groups(
    model: HNetNTV2ForMaskedLM, sequences: Iterable[NamedSequence], settings: EmbedSettings, progress: Progress
) -> Iterator[list[Embedding]]:
    assert settings.window is not None  # they are resolved
    done = 0
    for sequence_group in group_sequences(sequences, settings.batch_bases):
        group = _Group(sequence_group, settings)
        encoded = [sequence.bases for sequence in sequence_group]
        for pieces, input_ids in window_batches(
            encoded, settings.window, settings.flank, settings.batch_bases, model.device
        ):
            with torch.inference_mode():
                only_last = settings.layers == (LAST_LAYER,)
                group.add(pieces, ForwardPass(model.model, input_ids, settings.strands, only_last))
            done += sum(piece.window.keep_end - piece.window.keep_start for piece in pieces)
            progress(done)
        yield group.finish()


class _Group:
    """Gathers the vectors of some sequences from batches of their windows."""

    def __init__(self, sequences: list[NamedSequence], settings: EmbedSettings) -> None:
        self._sequences, self._settings = sequences, settings
        self._counted = [is_clean_base(each.bases[slice(*each.span)] & BASE_BITS) for each in sequences]
        self._sums = PoolSums(self._counted, settings.pools)
        self._per_base: list[NDArray[np.float32] | None] = [None] * len(sequences)
        self._chunks: list[list[tuple[int, ChunkVectors]]] = [[] for _ in sequences]

    def add(self, pieces: list[Piece], output: ForwardPass) -> None:
        """Take what the model says of a batch of windows."""
        taken = [self._taken(piece) for piece in pieces]
        for number, layer in enumerate(self._settings.layers):
            vectors = output.base_vectors(layer).float()
            self._sums.add(layer, taken, vectors)
            if number == 0 and self._settings.per_base:
                self._keep_bases(taken, vectors.cpu().numpy())
        if self._settings.per_chunk:
            for row, (index, start, end, place) in enumerate(taken):
                if end > start:
                    cut = _cut_chunks(output.chunk_vectors(row), place, place + end - start, start - place)
                    self._chunks[index].append((start, cut))

    def _taken(self, piece: Piece) -> tuple[int, int, int, int]:
        """Sequence, start and end of the bases to take (the first one behind the context is 0), and their place."""
        (first, last), window = self._sequences[piece.sequence].span, piece.window
        start = min(max(window.keep_start, first), last)
        end = max(min(window.keep_end, last), start)
        return piece.sequence, start - first, end - first, start - window.start

    def _keep_bases(self, taken: list[tuple[int, int, int, int]], vectors: NDArray[np.float32]) -> None:
        for row, (index, start, end, place) in enumerate(taken):
            kept = self._per_base[index]
            if kept is None:
                kept = self._per_base[index] = np.empty((len(self._counted[index]), vectors.shape[2]), np.float32)
            kept[start:end] = vectors[row, place : place + end - start]

    def finish(self) -> list[Embedding]:
        """The embeddings of all sequences, once all windows were added."""
        pools = self._sums.finish()
        nothing = np.empty(0, np.uint8)
        return [
            Embedding(
                sequence._replace(bases=nothing),
                {name: rows[index] for name, rows in pools.items()},
                int(self._counted[index].sum()),
                self._per_base[index],
                _join_chunks(self._chunks[index]) if self._settings.per_chunk else None,
            )
            for index, sequence in enumerate(self._sequences)
        ]


def _cut_chunks(chunks: ChunkVectors, start: int, end: int, offset: int) -> ChunkVectors:
    """The chunks that overlap [start, end), clipped to it, ``offset`` added to their spans."""
    overlaps = (chunks.spans[:, 1] > start) & (chunks.spans[:, 0] < end)
    return ChunkVectors(chunks.vectors[overlaps], np.clip(chunks.spans[overlaps], start, end) + offset)


def _join_chunks(parts: list[tuple[int, ChunkVectors]]) -> ChunkVectors:
    """The chunks of all windows from left to right; windows of one sequence can lie in batches of any order."""
    ordered = [chunks for _, chunks in sorted(parts, key=lambda part: part[0])]
    return ChunkVectors(*(np.concatenate(arrays) for arrays in zip(*ordered, strict=True)))
