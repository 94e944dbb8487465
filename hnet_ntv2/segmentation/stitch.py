"""Put what windows say of one strand of a sequence together, and cut chunks that are too long where windows meet."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Strand = Literal["+", "-"]


class Segmentation(NamedTuple):
    """Consecutive chunks of one strand: all of a sequence, or those of a stretch of it.

    Positions are those of the sequence as it was given, also for the reverse strand, which reads its chunks from right
    to left.

    Attributes:
        strand: "+", or "-" for the chunks of the reverse complement.
        start: First base of the first chunk; 0 for a whole sequence.
        end: The base after the last chunk; the length of a whole sequence.
        starts: Leftmost base of each chunk, per stage, outermost first; the last entry is the final chunks, whose
            starts are among those of every stage.
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
        return np.append(starts[1:], self.end)[: len(starts)]

    def chunk_lengths(self, stage: int = -1) -> NDArray[np.int64]:
        """Bases of each chunk of a stage; the final one by default."""
        return self.chunk_ends(stage) - self.starts[stage]

    def beginning(self, stage: int = -1) -> NDArray[np.float32]:
        """The probability that a chunk of a stage begins at the base where each of them does."""
        first_read = self.starts[stage] if self.strand == "+" else self.chunk_ends(stage) - 1
        probability = self.probability if stage == 0 else self.final_probability
        return probability[first_read - self.start]

    @staticmethod
    def joined(stretches: "list[Segmentation]") -> "Segmentation":
        """Stretches that follow each other as one."""
        strands, starts, ends, stage_starts, probability, final_probability = zip(*stretches, strict=True)
        stages = tuple(np.concatenate(each) for each in zip(*stage_starts, strict=True))
        whole = np.concatenate(probability), np.concatenate(final_probability)
        return Segmentation(strands[0], starts[0], ends[-1], stages, *whole)


class Stitcher:
    """Takes the kept parts of a strand's windows from left to right and gives the chunks that are complete.

    Windows cut a chunk at most at the model's cap; where two of them meet, a chunk of one and a chunk of the other can
    be one that is longer. It is cut as rarely as possible, where the probability of a boundary is highest.

    Args:
        strand: Which strand's decisions come in.
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
        """Whether the whole sequence was given back."""
        return self._start == self._length

    def add(self, probability: NDArray[np.float32], begins: NDArray[np.bool_]) -> Segmentation:
        """Take the next bases, and give the chunks that are complete, maybe none.

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
        # A chunk ends where the next one of the same strand begins: in front of that base, or behind it on the reverse.
        return int(first_read[-1]) + (self._strand == "-")

    def _finish(self, probability: NDArray[np.float32], begins: NDArray[np.bool_]) -> Segmentation:
        final_probability = probability.prod(0)
        begins = begins.copy()
        if self._cap is not None:
            # Where there is no chunk of an outer stage the product is 0; there the outermost stage decides.
            score = final_probability + 1e-6 * probability[0].astype(np.float64)
            reading = slice(None, None, 1 if self._strand == "+" else -1)
            begins[:, reading][:, cuts_of_long_chunks(begins[-1][reading], score[reading], self._cap)] = True
        end = self._start + begins.shape[1]
        starts = tuple(self._start + _leftmost(each, self._strand) for each in begins)
        return Segmentation(self._strand, self._start, end, starts, probability[0], final_probability)

    def state(self) -> dict[str, Any]:
        """What is not given back yet, for JSON."""
        return {
            "start": self._start,
            "probability": self._probability.tolist(),
            "begins": self._begins.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        shape = self._begins.shape[0], -1
        self._start = state["start"]
        self._probability = np.array(state["probability"], np.float32).reshape(shape)
        self._begins = np.array(state["begins"], bool).reshape(shape)


def _leftmost(begins: NDArray[np.bool_], strand: Strand) -> NDArray[np.int64]:
    """Leftmost bases of the chunks of complete chunks, of which the strand reads the marked bases first."""
    first_read = np.flatnonzero(begins)
    if strand == "+":
        return first_read
    return np.append(0, first_read[:-1] + 1)[: len(first_read)]


def cuts_of_long_chunks(begins: NDArray[np.bool_], score: NDArray[np.float64], cap: int) -> list[int]:
    """Where to cut chunks longer than ``cap``: as few cuts as possible, at the places of highest total score.

    Args:
        begins: [length] A chunk begins at the base.
        score: [length] How good it is that one begins there.
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
