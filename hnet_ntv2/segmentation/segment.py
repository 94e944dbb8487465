"""The model's chunks of sequences of any length, from overlapping windows, block by block."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..inference.windows import (
    DEFAULT_BATCH_BASES,
    HasBases,
    Piece,
    Progress,
    batches_by_length,
    checked_flank,
    default_window,
    pad_rows,
    window_blocks,
)
from ..kmers import flip_rows, reverse_complement
from ..levels import Chunking
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..shapes import Float, Tensor
from ..strands import Strands
from .stitch import Segmentation, Stitcher, Strand

STRANDS: dict[Strands, tuple[Strand, ...]] = {"forward": ("+",), "both": ("+", "-")}


@dataclass(frozen=True)
class SegmentSettings:
    """How to segment.

    Attributes:
        strands: "forward", or "both" for the chunks of each strand. The two are never averaged: p at a base is about
            the k-mer that a strand reads from there, and the strands agree on boundaries only by chance.
        window: Longer sequences are cut into overlapping windows of at most this many bases; None for the length of the
            model's training windows (``inference.windows.default_window``).
        flank: Least bases of context that are discarded at the inner edge of a window; None for an eighth of the
            window, at most 512.
        batch_bases: Most bases of one forward pass, padding included, before strands.
    """

    strands: Strands = "forward"
    window: int | None = None
    flank: int | None = None
    batch_bases: int = DEFAULT_BATCH_BASES

    def resolved(self, model: HNetNTV2ForMaskedLM) -> "SegmentSettings":
        """The settings with a model's defaults filled in; a job compares these, so that a default may be spelled out.

        Raises:
            ConfigError: Window and flank leave nothing to keep.
        """
        window = default_window(model.config) if self.window is None else self.window
        flank = checked_flank(window, self.flank, self.batch_bases)
        return SegmentSettings(self.strands, window, flank, self.batch_bases)


Read = Callable[[int, int, int], NDArray[np.uint8]]
"""Called with the index of a sequence, start and end: bases [start, end), encoded as in ``vocabulary``."""


class Stretches(NamedTuple):
    """The next complete chunks of one sequence: one stretch for each strand, forward first.

    Attributes:
        sequence: Index of the sequence.
        strands: The stretches; each begins where the strand's last one ended, and may be empty.
        is_last: Whether they reach the end of the sequence.
    """

    sequence: int
    strands: tuple[Segmentation, ...]
    is_last: bool


class Block(NamedTuple):
    """The result of a block of windows.

    Attributes:
        found: Complete chunks, in the order of the sequences.
        pending: State of the stitchers, for JSON; ``segment_blocks`` needs it to continue after this block.
    """

    found: list[Stretches]
    pending: list[dict[str, Any]]


_Sequence = TypeVar("_Sequence", bound=HasBases)


def segment_sequences(
    model: HNetNTV2ForMaskedLM,
    sequences: Iterable[_Sequence],
    settings: SegmentSettings | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[_Sequence, Segmentation]]:
    """The chunks of sequences, in their order.

    A sequence of at most one window gets exactly the chunks of ``model(...)`` with ``strands="forward"``, guard and cap
    included; its reverse strand gets those of the reverse complement. In a longer sequence, each base's boundary is
    decided in the window that shows most context around it. Where two windows meet, a final chunk can exceed the
    model's cap: it is cut as rarely as possible, where the probability of a boundary is highest.

    Args:
        model: In eval mode.
        sequences: With a field ``bases``, encoded as in ``vocabulary``; read as they are needed.
        settings: None for the defaults of ``SegmentSettings``.
        progress: Called after each forward pass.

    Yields:
        Each sequence and its chunks, which tile it without gap or overlap; with both strands twice, forward first.

    Raises:
        ConfigError: Window and flank leave nothing to keep.
    """
    # Outside the generator, so that wrong settings raise at the call and not at the first result.
    resolved = (settings or SegmentSettings()).resolved(model)
    return _segment_whole(model, sequences, resolved, progress)


def _segment_whole(
    model: HNetNTV2ForMaskedLM, sequences: Iterable[_Sequence], settings: SegmentSettings, progress: Progress | None
) -> Iterator[tuple[_Sequence, Segmentation]]:
    waiting: dict[int, _Sequence] = {}  # read, and not segmented to its end

    def lengths() -> Iterator[int]:
        for index, sequence in enumerate(sequences):
            waiting[index] = sequence
            yield len(sequence.bases)

    def read(index: int, start: int, end: int) -> NDArray[np.uint8]:
        return waiting[index].bases[start:end]

    parts: list[tuple[Segmentation, ...]] = []
    for block in segment_blocks(model, lengths(), read, settings, progress):
        for stretches in block.found:
            parts.append(stretches.strands)
            if stretches.is_last:
                sequence = waiting.pop(stretches.sequence)
                yield from ((sequence, Segmentation.joined(list(strand))) for strand in zip(*parts, strict=True))
                parts = []


def segment_blocks(
    model: HNetNTV2ForMaskedLM,
    lengths: Iterable[int],
    read: Read,
    settings: SegmentSettings,
    progress: Progress | None = None,
    num_done: int = 0,
    pending: list[dict[str, Any]] | None = None,
) -> Iterator[Block]:
    """The chunks of sequences, block by block; memory holds one block of windows, however long a sequence is.

    Args:
        model: In eval mode.
        lengths: Bases of each sequence; asked for one after the other.
        read: Reads the sequences window by window, each from left to right.
        settings: What ``SegmentSettings.resolved`` returned.
        progress: Called after each forward pass.
        num_done: Blocks to skip, which an earlier call has yielded.
        pending: ``Block.pending`` of the last one of them.
    """
    assert settings.window is not None
    assert settings.flank is not None
    known: list[int] = []  # the lengths that were asked for

    def asked() -> Iterator[int]:
        for length in lengths:
            known.append(length)
            yield length

    stitchers: list[Stitcher] = []
    current, bases_done = -1, 0
    for number, pieces in enumerate(window_blocks(asked(), settings.window, settings.flank, settings.batch_bases)):
        if number < num_done:
            current = pieces[-1].sequence
            bases_done += sum(map(_num_kept, pieces))
            continue
        # The first block after the skipped ones may go on with a sequence that is half done.
        if number == num_done and pieces[0].sequence == current:
            stitchers = _stitchers(model, settings, known[current])
            for stitcher, state in zip(stitchers, pending or [], strict=True):
                stitcher.restore(state)
        # Batched by length, so that little is padding, but stitched from left to right.
        views: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(pieces)
        for batch in batches_by_length([each.window.end - each.window.start for each in pieces], settings.batch_bases):
            batch_pieces = [pieces[index] for index in batch]
            for index, view in zip(batch, _kept_views(model, read, batch_pieces, settings.strands), strict=True):
                views[index] = view
            bases_done += sum(map(_num_kept, batch_pieces))
            if progress is not None:
                progress(bases_done)
        found = []
        for sequence, group in groupby(zip(pieces, views, strict=True), key=lambda pair: pair[0].sequence):
            if sequence != current:
                stitchers, current = _stitchers(model, settings, known[sequence]), sequence
            kept = np.concatenate([view for _, view in group], axis=-1)
            strands = tuple(
                stitcher.add(probability, begins > 0)
                for stitcher, (probability, begins) in zip(stitchers, kept, strict=True)
            )
            found.append(Stretches(sequence, strands, all(stitcher.is_done for stitcher in stitchers)))
        yield Block(found, [stitcher.state() for stitcher in stitchers])


def _num_kept(piece: Piece) -> int:
    return piece.window.keep_end - piece.window.keep_start


def _stitchers(model: HNetNTV2ForMaskedLM, settings: SegmentSettings, length: int) -> list[Stitcher]:
    config = model.config
    return [
        Stitcher(strand, length, config.num_stages, config.max_chunk_length) for strand in STRANDS[settings.strands]
    ]


def _kept_views(
    model: HNetNTV2ForMaskedLM, read: Read, batch: list[Piece], strands: Strands
) -> Iterator[NDArray[np.float32]]:
    """Of each window of a batch: p and decisions at its kept bases, forward frame, [strands, 2, stages, kept bases]."""
    input_ids = pad_rows([read(index, window.start, window.end) for index, window in batch], model.device)
    with torch.inference_mode():
        stages = model.model.chunk(input_ids)  # without trunk and decoders, which no boundary depends on
        views = [_view(stages)]
        if strands == "both":
            is_valid = stages[0].is_valid
            reverse_stages = model.model.chunk(reverse_complement(input_ids, is_valid), is_valid)
            views.append(flip_rows(_view(reverse_stages), is_valid))
        # From [strands, batch, length, 2, stages] to the order that the stitchers take.
        by_window = torch.stack(views).permute(1, 0, 3, 4, 2).cpu().numpy()
    for (_, window), view in zip(batch, by_window, strict=True):
        # A copy: a slice would keep the whole batch in memory until the block is done.
        yield view[..., window.keep_start - window.start : window.keep_end - window.start].copy()


def _view(stages: tuple[Chunking, ...]) -> Float[Tensor, "batch length 2 stages"]:
    """At each base and stage: p (0 where an outer stage has no chunk) and the decision; in the strand's own frame."""
    begins = stages[0].is_valid
    # The stage's position at each base; the first stage's positions are the bases.
    position = torch.arange(begins.shape[1], device=begins.device).expand_as(begins)
    fields = []
    for stage in stages:
        probability = stage.probability.gather(1, position).float() * begins
        begins = begins & stage.is_boundary.gather(1, position)
        fields.append(torch.stack([probability, begins.float()], dim=-1))
        position = stage.chunk_of.gather(1, position)
    return torch.stack(fields, dim=-1)
