"""Embed sequences: one mean vector each, and one vector per base where asked for."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..errors import ConfigError
from ..hierarchy import States
from ..inference.windows import (
    DEFAULT_BATCH_BASES,
    Progress,
    checked_flank,
    default_window,
    group_sequences,
    window_batches,
)
from ..levels import Chunking, final_chunk_of
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM, HNetNTV2Model
from ..shapes import Float, Int, Tensor
from ..strands import Strands, average_strands
from ..vocabulary import BASE_BITS, is_clean_base
from .sequences import NamedSequence

LAST_LAYER = "last"


@dataclass(frozen=True)
class EmbedSettings:
    """How to embed.

    Attributes:
        layer: "last" (the model's output per base) or one of ``layer_names``. A state that exists per chunk is given
            to every base of the chunk.
        strands: "both" averages the vectors of both strands in the forward frame; "forward" runs one.
        per_base: Also keep one vector per base.
        window: Longer sequences are cut into overlapping windows of at most this many bases; None for the length of the
            model's training windows (``inference.windows.default_window``).
        flank: Least bases of context that are discarded at the inner edge of a window; None for an eighth of the
            window, at most 512.
        batch_bases: Most bases of one forward pass, padding included, before strands.
    """

    layer: str = LAST_LAYER
    strands: Strands = "both"
    per_base: bool = False
    window: int | None = None
    flank: int | None = None
    batch_bases: int = DEFAULT_BATCH_BASES


class Embedding(NamedTuple):
    """The vectors of one sequence.

    Attributes:
        name: Of the sequence.
        mean: [dim] float32 mean over its A, C, G and T; NaN where it has none.
        num_bases: How many of these there are.
        per_base: [length, dim] float32 vectors of all bases, N included, if asked for.
    """

    name: str
    mean: NDArray[np.float32]
    num_bases: int
    per_base: NDArray[np.float32] | None


def layer_names(config: HNetNTV2Config) -> tuple[str, ...]:
    """The states that can be asked for, from the embeddings inward and back, and "last"."""
    stages = [f"stage{stage}" for stage in range(1, config.num_stages + 1)]
    trunk = [f"trunk_{block}" for block in range(config.n_main_layer + 1)]
    encoders, decoders = [f"{stage}_encoder" for stage in stages], [f"{stage}_decoder" for stage in reversed(stages)]
    return ("embeddings", *encoders, *trunk, *decoders, LAST_LAYER)


def base_vectors(
    model: HNetNTV2Model, input_ids: Int[Tensor, "batch length"], layer: str = LAST_LAYER, strands: Strands = "both"
) -> Float[Tensor, "batch length dim"]:
    """One vector per base of right-padded rows; the mean over strands in the forward frame."""
    states: States = {}
    _, (hidden, chunkings, _) = model.run_strands(
        input_ids, strands=strands, states=None if layer == LAST_LAYER else states
    )
    if layer != LAST_LAYER:
        hidden = _spread_to_bases(states[layer], layer, chunkings)
    return average_strands(hidden, chunkings[0].is_valid[: len(input_ids)])


def _spread_to_bases(
    state: Float[Tensor, "rows positions dim"], layer: str, chunkings: tuple[Chunking, ...]
) -> Float[Tensor, "rows length dim"]:
    """A named state at every base; ``<cls>`` in front of the trunk's states is left out."""
    if layer.startswith("trunk_"):
        state, depth = state[:, 1:], len(chunkings)
    else:
        stage = re.match(r"stage(\d+)_", layer)
        depth = int(stage.group(1)) - 1 if stage else 0
    if depth == 0:
        return state
    chunk_of = final_chunk_of(chunkings[:depth])
    return state.gather(1, chunk_of[..., None].expand(-1, -1, state.shape[-1]))


def embed_sequences(
    model: HNetNTV2ForMaskedLM,
    sequences: Iterable[NamedSequence],
    settings: EmbedSettings | None = None,
    progress: Progress | None = None,
) -> Iterator[Embedding]:
    """Embed sequences in their order.

    N is read by the model and left out of the mean. Lower case (the soft mask) is read as upper case. A sequence longer
    than ``settings.window`` is cut into overlapping windows whose flanks are discarded, so that each base is embedded
    once and with context (``inference.windows.plan_windows``).

    Args:
        model: In eval mode.
        sequences: Read as they are needed.
        settings: How; the defaults of ``EmbedSettings`` without.
        progress: Called after each forward pass.

    Raises:
        ConfigError: The layer is unknown, or window and flank keep nothing.
    """
    settings = settings or EmbedSettings()
    known = layer_names(model.config)
    if settings.layer not in known:
        raise ConfigError(f"layer {settings.layer!r} is unknown; this model has {', '.join(known)}")
    window = default_window(model.config) if settings.window is None else settings.window
    checked_flank(window, settings.flank, settings.batch_bases)  # before anything is read
    return _embed_groups(model, sequences, settings, window, progress)


def _embed_groups(
    model: HNetNTV2ForMaskedLM,
    sequences: Iterable[NamedSequence],
    settings: EmbedSettings,
    window: int,
    progress: Progress | None,
) -> Iterator[Embedding]:
    done = 0
    for group in group_sequences(sequences, settings.batch_bases):
        sums = [_Sums(sequence, settings.per_base) for sequence in group]
        batches = window_batches(
            [sequence.bases for sequence in group], window, settings.flank, settings.batch_bases, model.device
        )
        for pieces, input_ids in batches:
            with torch.inference_mode():
                vectors = base_vectors(model.model, input_ids, settings.layer, settings.strands).float().cpu().numpy()
            for (index, piece), row in zip(pieces, vectors, strict=True):
                kept = row[piece.keep_start - piece.start : piece.keep_end - piece.start]
                sums[index].add(piece.keep_start, piece.keep_end, kept)
                done += piece.keep_end - piece.keep_start
            if progress is not None:
                progress(done)
        yield from (each.finish() for each in sums)


class _Sums:
    """Collects the kept vectors of one sequence."""

    def __init__(self, sequence: NamedSequence, per_base: bool) -> None:
        letters = sequence.bases & BASE_BITS
        self._name = sequence.name
        self._counts = is_clean_base(letters)
        self._sum: NDArray[np.float64] | None = None
        self._wants_bases = per_base
        self._per_base: NDArray[np.float32] | None = None

    def add(self, start: int, end: int, vectors: NDArray[np.float32]) -> None:
        """Take the vectors of bases [start, end)."""
        if self._sum is None:
            self._sum = np.zeros(vectors.shape[1])
            if self._wants_bases:
                self._per_base = np.empty((len(self._counts), vectors.shape[1]), np.float32)
        self._sum += vectors[self._counts[start:end]].sum(0, dtype=np.float64)
        if self._per_base is not None:
            self._per_base[start:end] = vectors

    def finish(self) -> Embedding:
        """The result."""
        assert self._sum is not None, "a sequence without a base"
        count = int(self._counts.sum())
        mean = self._sum / count if count else np.full_like(self._sum, np.nan)
        return Embedding(self._name, mean.astype(np.float32), count, self._per_base)
