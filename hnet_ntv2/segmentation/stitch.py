"""Join the boundaries of one strand from consecutive windows, and cut chunks that exceed the cap where windows meet."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Strand = Literal["+", "-"]


class Segmentation(NamedTuple):
    """Consecutive chunks of one strand: all of a sequence, or a stretch of it.

    Positions are those of the forward strand, also for the reverse strand, which reads its chunks from right to left.

    Attributes:
        strand: "+", or "-" for the chunks of the reverse complement.
        start: First base of the first chunk; 0 for a whole sequence.
        end: The base after the last chunk; the length of a whole sequence.
        starts: Leftmost base of each chunk, per stage, outermost first; the last entry is the final chunks.
        probability: [end - start] the router's probability that a stage-1 chunk of this strand begins at the base; 1 at
            the base that the strand reads first.
        final_probability: [end - start] the same for a final chunk: the product over stages, 0 where an outer stage has
            no chunk.
    """

    strand: Strand
    start: int
    end: int
    starts: tuple[NDArray[np.int64], ...]
    probability: NDArray[np.float32]
    final_probability: NDArray[np.float32]

    def chunk_ends(self, stage: int = -1) -> NDArray[np.int64]:
        """The base after each chunk of a stage; of the final chunks by default."""
        starts = self.starts[stage]
        # Cut to length: an empty stretch has no chunk, and no end either.
        return np.append(starts[1:], self.end)[: len(starts)]

    def chunk_lengths(self, stage: int = -1) -> NDArray[np.int64]:
        """Bases of each chunk of a stage; the final one by default."""
        return self.chunk_ends(stage) - self.starts[stage]

    def beginning(self, stage: int = -1) -> NDArray[np.float32]:
        """Of each chunk of a stage: the probability that a chunk begins at the base that its strand reads first."""
        first_read = self.starts[stage] if self.strand == "+" else self.chunk_ends(stage) - 1
        probability = self.probability if stage == 0 else self.final_probability
        return probability[first_read - self.start]

    @staticmethod
    def joined(stretches: "list[Segmentation]") -> "Segmentation":
        """One segmentation of stretches that follow each other."""
        strands, starts, ends, stage_starts, probability, final_probability = zip(*stretches, strict=True)
        stages = tuple(np.concatenate(each) for each in zip(*stage_starts, strict=True))
        whole = np.concatenate(probability), np.concatenate(final_probability)
        return Segmentation(strands[0], starts[0], ends[-1], stages, *whole)


class Stitcher:
    """Takes the kept parts of a strand's windows from left to right, and returns chunks as they are complete.

    Inside a window no chunk exceeds the model's cap. Where two windows meet, the last chunk of one and the first of the
    other join, and can exceed it. Such a chunk is cut as rarely as possible, where the probability of a boundary is
    highest.

    Args:
        strand: The strand of the decisions.
        length: Bases of the whole sequence.
        num_stages: Stages of the model.
        cap: Most bases of a final chunk; None for no cap.
    """

    def __init__(self, strand: Strand, length: int, num_stages: int, cap: int | None) -> None:
        self._strand: Strand = strand
        self._length = length
        self._cap = cap
        self._start = 0
        self._probability = np.zeros((num_stages, 0), np.float32)
        self._begins = np.zeros((num_stages, 0), bool)

    @property
    def is_done(self) -> bool:
        """Whether all chunks of the sequence were returned."""
        return self._start == self._length

    def add(self, probability: NDArray[np.float32], begins: NDArray[np.bool_]) -> Segmentation:
        """Take the next bases, and return the chunks that are complete, maybe none.

        Args:
            probability: [stages, bases] p of each stage, 0 where an outer stage has no chunk.
            begins: [stages, bases] A chunk of the strand begins at the base.
        """
        self._probability = np.concatenate([self._probability, probability], axis=1)
        self._begins = np.concatenate([self._begins, begins], axis=1)
        num_complete = self._num_complete()
        found = self._finish(self._probability[:, :num_complete], self._begins[:, :num_complete])
        self._probability = self._probability[:, num_complete:]
        self._begins = self._begins[:, num_complete:]
        self._start += num_complete
        return found

    def _num_complete(self) -> int:
        num_held = self._begins.shape[1]
        if self._start + num_held == self._length:
            return num_held
        first_read = np.flatnonzero(self._begins[-1])
        if not len(first_read):
            return 0
        # Complete up to the last beginning. On the reverse strand, the base that begins a chunk is its rightmost one.
        return int(first_read[-1]) + (self._strand == "-")

    def _finish(self, probability: NDArray[np.float32], begins: NDArray[np.bool_]) -> Segmentation:
        final_probability = probability.prod(0)
        begins = begins.copy()
        if self._cap is not None:
            # The product is 0 where an outer stage has no chunk: 1e-6 lets the outermost stage break such ties only.
            score = final_probability + 1e-6 * probability[0].astype(np.float64)
            reading = slice(None, None, 1 if self._strand == "+" else -1)
            # A view in reading order, so this changes ``begins``. In all stages: a final chunk begins in each.
            begins[:, reading][:, cuts_of_long_chunks(begins[-1][reading], score[reading], self._cap)] = True
        end = self._start + begins.shape[1]
        starts = tuple(self._start + _leftmost(each, self._strand) for each in begins)
        return Segmentation(self._strand, self._start, end, starts, probability[0], final_probability)

    def state(self) -> dict[str, Any]:
        """What is not returned yet, for JSON."""
        return {
            "start": self._start,
            "probability": self._probability.tolist(),
            "begins": self._begins.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a ``state``."""
        shape = self._begins.shape[0], -1
        self._start = state["start"]
        self._probability = np.array(state["probability"], np.float32).reshape(shape)
        self._begins = np.array(state["begins"], bool).reshape(shape)


def _leftmost(begins: NDArray[np.bool_], strand: Strand) -> NDArray[np.int64]:
    """Leftmost base of each complete chunk; ``begins`` marks the base that the strand reads first."""
    first_read = np.flatnonzero(begins)
    if strand == "+":
        return first_read
    # Of the reverse strand, each marked base is the rightmost of its chunk: the next chunk starts behind it.
    return np.append(0, first_read[:-1] + 1)[: len(first_read)]


def cuts_of_long_chunks(begins: NDArray[np.bool_], score: NDArray[np.float64], cap: int) -> list[int]:
    """Bases at which to cut chunks longer than ``cap``: as few cuts as possible, of the highest total score.

    Args:
        begins: [length] A chunk begins at the base.
        score: [length] Score of a cut in front of the base.
        cap: Most bases of a chunk.
    """
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(begins))[: len(starts)]
    is_long = ends - starts > cap
    cuts = []
    for start, end in zip(starts[is_long].tolist(), ends[is_long].tolist(), strict=True):
        cuts += [start + cut for cut in _fewest_cuts(score[start:end], cap)]
    return cuts


def _fewest_cuts(score: NDArray[np.float64], cap: int) -> list[int]:
    """Cut one chunk into ceil(length / cap) pieces, by dynamic programming.

    Let cut j lie ``left`` bases left of j x cap. No piece exceeds the cap exactly if ``left`` never falls from one cut
    to the next and never exceeds ``slack``. So the best total up to a cut is a running maximum over ``left``.
    """
    length = len(score)
    num_pieces = -(-length // cap)
    slack = num_pieces * cap - length
    choices = []
    total = np.zeros(slack + 1)
    for cut in range(1, num_pieces):
        # total[left]: the best of the cuts up to this one, if it lies ``left`` bases left of cut x cap.
        best = np.maximum.accumulate(total)
        # Strictly better only: of equal totals, the cut furthest right is taken.
        is_better = np.append(True, total[1:] > best[:-1])
        choices.append(np.maximum.accumulate(np.where(is_better, np.arange(slack + 1), 0)))
        total = best + score[cut * cap - slack : cut * cap + 1][::-1]
    left, cuts = int(np.argmax(total)), []
    for cut in range(num_pieces - 1, 0, -1):
        cuts.append(cut * cap - left)
        left = int(choices[cut - 1][left])
    return cuts[::-1]
