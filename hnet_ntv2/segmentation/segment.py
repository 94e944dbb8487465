"""Cut sequences of any length into the model's chunks: boundary probabilities stitched over windows, then decisions."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..inference.windows import (
    DEFAULT_BATCH_BASES,
    DEFAULT_WINDOW,
    HasBases,
    Progress,
    Window,
    checked_flank,
    group_sequences,
    window_batches,
)
from ..kmers import reverse_complement
from ..levels import Chunking
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..shapes import Float, Int, Tensor
from ..strands import Strands
from .joint import at_forward_junctions


@dataclass(frozen=True)
class SegmentSettings:
    """How to segment.

    Attributes:
        strands: "both" averages the boundary probabilities of both strands at the junctions between bases and then
            decides; "forward" takes the decisions of one strand.
        window: Longer sequences are cut into overlapping windows of at most this many bases.
        flank: Least bases of context that are discarded at the inner edge of a window; None for an eighth of the
            window, at most 512.
        batch_bases: Most bases of one forward pass, padding included, before strands.
    """

    strands: Strands = "both"
    window: int = DEFAULT_WINDOW
    flank: int | None = None
    batch_bases: int = DEFAULT_BATCH_BASES


class Segmentation(NamedTuple):
    """The chunks of one sequence.

    Attributes:
        length: Bases of the sequence.
        starts: First base of each chunk, per stage, outermost first; the last entry is the final chunks, whose starts
            are among those of every stage.
        probability: [length] probability that a stage-1 chunk begins at the base; 1 at the first base.
        final_probability: [length] the same for a final chunk: the product over stages.
    """

    length: int
    starts: tuple[NDArray[np.int64], ...]
    probability: NDArray[np.float32]
    final_probability: NDArray[np.float32]

    def chunk_lengths(self, stage: int = -1) -> NDArray[np.int64]:
        """Bases of each chunk of a stage; the final one by default."""
        return np.diff(self.starts[stage], append=self.length)


_Sequence = TypeVar("_Sequence", bound=HasBases)


def segment_sequences(
    model: HNetNTV2ForMaskedLM,
    sequences: Iterable[_Sequence],
    settings: SegmentSettings | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[_Sequence, Segmentation]]:
    """Segment sequences in their order.

    With both strands, p of stage 1 is averaged at each junction over strands (``joint_boundary_probability``), and
    chunks begin where it exceeds one half. An inner stage's p exists only where a strand has a chunk of the stage
    outside it: it is averaged over the strands that have one, and chunks of this stage begin where it exceeds one half
    among those of the stage outside. With one strand the model's own decisions are taken, guard included.

    Each junction is judged by the window that sees it with most context. A final chunk that is then longer than the
    model's cap is cut, as rarely as possible and where the probability of a boundary is highest.

    Args:
        model: In eval mode.
        sequences: With a field ``bases``, encoded as in ``genome.alphabet``; read as they are needed.
        settings: How; the defaults of ``SegmentSettings`` without.
        progress: Called after each forward pass.

    Yields:
        Each sequence and its chunks, which tile it without gap or overlap.

    Raises:
        ConfigError: Window and flank keep nothing.
    """
    settings = settings or SegmentSettings()
    checked_flank(settings.window, settings.flank, settings.batch_bases)  # before anything is read
    return _segment_groups(model, sequences, settings, progress)


def _segment_groups(
    model: HNetNTV2ForMaskedLM, sequences: Iterable[_Sequence], settings: SegmentSettings, progress: Progress | None
) -> Iterator[tuple[_Sequence, Segmentation]]:
    done = 0
    for group in group_sequences(sequences, settings.batch_bases):
        stitched = [
            _Stitched(len(sequence.bases), model.config.num_stages, settings.strands == "both") for sequence in group
        ]
        batches = window_batches(
            [sequence.bases for sequence in group], settings.window, settings.flank, settings.batch_bases, model.device
        )
        for pieces, input_ids in batches:
            views = _views_of_strands(model, input_ids, settings.strands)
            for row, piece in enumerate(pieces):
                stitched[piece.sequence].add(piece.window, [view[row] for view in views])
                done += piece.window.keep_end - piece.window.keep_start
            if progress is not None:
                progress(done)
        for sequence, each in zip(group, stitched, strict=True):
            yield sequence, each.finish(model.config.max_chunk_length)


def _views_of_strands(
    model: HNetNTV2ForMaskedLM, input_ids: Int[Tensor, "batch length"], strands: Strands
) -> list[NDArray[np.float32]]:
    """What each strand says of the junctions (t-1|t), at t in the forward frame; each [batch, length, 3, stages]."""
    with torch.inference_mode():
        stages = model.model.chunk(input_ids)  # neither trunk nor decoders are asked
        views = [_view(stages)]
        if strands == "both":
            is_valid = stages[0].is_valid
            reverse_stages = model.model.chunk(reverse_complement(input_ids, is_valid), is_valid)
            views.append(at_forward_junctions(_view(reverse_stages), is_valid))
    return [view.cpu().numpy() for view in views]


def _view(stages: tuple[Chunking, ...]) -> Float[Tensor, "batch length 3 stages"]:
    """Of each base and stage: p, whether the stage has one there, and the decision; in the strand's own frame."""
    begins, position = stages[0].is_valid, None
    fields = []
    for stage in stages:
        at_base = (lambda field: field) if position is None else (lambda field, at=position: field.gather(1, at))
        probability = at_base(stage.probability).float() * begins
        decided = begins & at_base(stage.is_boundary)
        fields.append(torch.stack([probability, begins.float(), decided.float()], dim=-1))
        begins, position = decided, at_base(stage.chunk_of)
    return torch.stack(fields, dim=-1)


class _Stitched:
    """Collects what windows and strands say of the junctions of one sequence."""

    def __init__(self, length: int, num_stages: int, is_joint: bool) -> None:
        self._total = np.zeros((num_stages, length), np.float32)
        self._count = np.zeros((num_stages, length), np.uint8)
        self._decided = np.zeros((num_stages, length), bool)
        self._is_joint = is_joint

    def add(self, window: Window, views: list[NDArray[np.float32]]) -> None:
        """Take the kept junctions of a window; the one between two windows is asked of both if strands are joined."""
        last = min(window.keep_end + self._is_joint, self._total.shape[1])
        kept = slice(window.keep_start, last)
        for view in views:
            probability, is_defined, decided = np.moveaxis(view[kept.start - window.start : last - window.start], 0, -1)
            self._total[:, kept] += probability
            self._count[:, kept] += is_defined.astype(np.uint8)
            self._decided[:, kept] |= decided.astype(bool)

    def finish(self, cap: int | None) -> Segmentation:
        """Decide."""
        probability = self._total / np.maximum(self._count, 1)
        probability[:, 0] = 1
        begins = np.logical_and.accumulate(probability > 0.5) if self._is_joint else self._decided
        final_probability = probability.prod(0)
        # Where no strand has an inner chunk the product is 0; there the outermost stage decides.
        score = final_probability + 1e-6 * probability[0].astype(np.float64)
        added = [] if cap is None else cuts_of_long_chunks(begins[-1], score, cap)
        begins[:, added] = True
        starts = tuple(np.flatnonzero(each) for each in begins)
        return Segmentation(begins.shape[1], starts, probability[0], final_probability)


def cuts_of_long_chunks(begins: NDArray[np.bool_], score: NDArray[np.float64], cap: int) -> list[int]:
    """Where to cut chunks longer than ``cap``: as few cuts as possible, at the places of highest total score.

    Args:
        begins: [length] A chunk begins at the base.
        score: [length] How good it is that one begins there.
        cap: Most bases of a chunk.
    """
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(begins))
    is_long = ends - starts > cap
    cuts = []
    for start, end in zip(starts[is_long].tolist(), ends[is_long].tolist(), strict=True):
        cuts += [start + cut for cut in _fewest_cuts(score[start:end], cap)]
    return cuts


def _fewest_cuts(score: NDArray[np.float64], cap: int) -> list[int]:
    """Cut one chunk into ceil(length / cap) pieces.

    With that many pieces, cut j lies at most ``slack`` bases left of j x cap, and no further left of it than the next
    one is of (j + 1) x cap: the best total is a running maximum.
    """
    length = len(score)
    num_pieces = -(-length // cap)
    slack = num_pieces * cap - length
    choices = []
    total = np.zeros(slack + 1)
    for cut in range(1, num_pieces):
        # total[left]: the best of the cuts up to this one, if it lies ``left`` bases left of cut x cap.
        best = np.maximum.accumulate(total)
        is_better = np.append(True, total[1:] > best[:-1])
        choices.append(np.maximum.accumulate(np.where(is_better, np.arange(slack + 1), 0)))
        total = best + score[cut * cap - slack : cut * cap + 1][::-1]
    left, cuts = int(np.argmax(total)), []
    for cut in range(num_pieces - 1, 0, -1):
        cuts.append(cut * cap - left)
        left = int(choices[cut - 1][left])
    return cuts[::-1]
