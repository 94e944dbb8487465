"""Texts whose best chunk boundaries are known, with masks that can only be filled through the trunk.

All are made-up DNA but one, ``human_copy``, in which a piece of human DNA was copied.

In each language the second half of a row says again what the first half said. Masked bases stand in the second half.
What they were stands in the first, farther away than the local layers see. So the chunks that the trunk gets matter.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hnet_ntv2.conversion.sequence import read_sequence
from hnet_ntv2.vocabulary import FIRST_BASE, MASK_ID

LENGTH = 192
TEST_SEED = 1 << 30  # batches with this seed or a greater one are for measuring
_MASKED_SPAN = 6


class Rows(NamedTuple):
    """A batch of one language.

    Attributes:
        input_ids: [rows, 192] with [MASK] at targets.
        labels: [rows, 192] what the masks hide, -100 elsewhere.
        truth: [rows, 192] whether an ideal final chunk begins at a base.
        is_repeated: [rows, 192] whether a base was said before, so that it could be masked.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    truth: torch.Tensor
    is_repeated: torch.Tensor

    @property
    def bases(self) -> torch.Tensor:
        """The rows without masks."""
        return torch.where(self.labels == -100, self.input_ids, self.labels)


class _Text(NamedTuple):
    """One row: bases 0..3, where ideal chunks begin, what was said before, and [start, end) of possible masks."""

    bases: NDArray[np.int64]
    truth: NDArray[np.bool_]
    is_repeated: NDArray[np.bool_]
    maskable: list[tuple[int, int]]


def _lexicon() -> list[NDArray[np.int64]]:
    """200 words of 4 to 9 bases (mean 6.5), all different."""
    random = np.random.default_rng(16)
    words: dict[tuple[int, ...], NDArray[np.int64]] = {}
    while len(words) < 200:
        word = random.integers(0, 4, int(random.integers(4, 10)))
        words[tuple(word)] = word
    return list(words.values())


_LEXICON = _lexicon()
_USE = 1 / np.arange(1, len(_LEXICON) + 1)
_USE /= _USE.sum()


def copy(random: np.random.Generator) -> _Text:
    """80 random bases, a gap of random length, the same 80 again: repeats at all phases of any grid.

    The ideal boundaries are content-defined: where the hash of the next bases is the least of seven neighbours, so that
    both copies are cut alike. Masks are whole ideal chunks: a mask forces boundaries at its ends, and elsewhere they
    would spoil the chunk in front of it (docs/experiments.md).
    """
    part, gap = random.integers(0, 4, 80), int(random.integers(1, 32))
    return _copied(part, gap, random.integers(0, 4, LENGTH - 160))


def human_copy(random: np.random.Generator, held_out: bool) -> _Text:
    """``copy`` with the letters of human DNA: 112 bases of it, into which the first 80 were put once more.

    Args:
        random: Of the piece and of the gap.
        held_out: Of validation intervals; otherwise of training intervals.
    """
    windows = _human_windows()[held_out]
    window = windows[random.integers(len(windows))]
    return _copied(window[:80], int(random.integers(1, 32)), window[80:])


@cache
def _human_windows() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[windows, 112] bases of the human DNA that comes with the package: of training and of validation intervals."""
    found = read_sequence(length=LENGTH - 80, count=1024, with_text=True)
    assert found.text is not None
    training, held_out = (each.numpy() - FIRST_BASE for each in (found.text, found.held_out))
    # No N: the languages have four letters.
    return training[(training < 4).all(1)], held_out[(held_out < 4).all(1)]


def _copied(part: NDArray[np.int64], gap: int, rest: NDArray[np.int64]) -> _Text:
    """A part, ``gap`` bases of the rest, the part again, what is left of the rest; cut and masked by its content."""
    bases = np.concatenate([part, rest[:gap], part, rest[gap:]])
    code = np.convolve(bases, 4 ** np.arange(4))[3 : 3 + LENGTH] * 2654435761 % (1 << 32)
    padded = np.pad(code, 3, constant_values=1 << 33)
    truth = code == np.lib.stride_tricks.sliding_window_view(padded, 7).min(1)
    inside = [at for at in np.flatnonzero(truth) if 80 + gap + 9 <= at <= 80 + gap + 68]
    # Every second one, so that clean chunks stand between masks.
    spans = [(int(inside[number]), int(inside[number + 1])) for number in range(0, len(inside) - 1, 2)]
    return _Text(bases, truth, _flags((80 + gap, 160 + gap)), spans)


def words(random: np.random.Generator, spacers: int = 0) -> _Text:
    """Phrases of three words, then the same phrases in another order; the last word of some is masked.

    Words are of one lexicon, used as in Zipf's law; phrases are drawn for each row anew, so that no weight can hold
    them. ``spacers`` is the most random bases between two words, other ones each time. Ideal chunks are words, with the
    spacer behind.
    """
    num_phrases = 4 if spacers else 5
    words_of_row = random.choice(len(_LEXICON), 3 * num_phrases, p=_USE)
    phrases = [[_LEXICON[word] for word in words_of_row[3 * n : 3 * n + 3]] for n in range(num_phrases)]
    order = random.permutation(num_phrases)
    pieces, starts, spans, at = [], [], [], 0
    for half, number in [(0, n) for n in range(num_phrases)] + [(1, n) for n in order]:
        for place, word in enumerate(phrases[number]):
            starts.append(at)
            if half and place == 2:
                spans.append((at, at + len(word)))
            pieces.append(word)
            at += len(word)
            if spacers:
                space = random.integers(0, 4, int(random.integers(0, spacers + 1)))
                pieces.append(space)
                at += len(space)
    end = at
    pieces.append(random.integers(0, 4, max(LENGTH - at, 0)))
    starts += list(range(at, LENGTH, _MASKED_SPAN))
    truth = np.zeros(LENGTH, bool)
    truth[[start for start in starts if start < LENGTH]] = True
    is_repeated = _flags((starts[3 * num_phrases], end))
    return _Text(np.concatenate(pieces)[:LENGTH], truth, is_repeated, [span for span in spans if span[1] <= LENGTH])


def spaced_words(random: np.random.Generator) -> _Text:
    """``words`` with 0 to 3 random bases between them."""
    return words(random, spacers=3)


def uneven(random: np.random.Generator) -> _Text:
    """Dense random stretches between long runs of one repeated unit; then the dense stretches in another order.

    A run of a unit of 1 to 3 bases (12 to 19 long) says little: ideal chunks have 12 bases there. They have 6 in the
    dense stretches, of which the second and the fourth are masked.
    """
    dense = [random.integers(0, 4, 30) for _ in range(2)]
    bases, starts, spans, dense_again, at = [], [], [], [], 0
    for half, number in [(0, 0), (0, 1)] + [(1, int(n)) for n in random.permutation(2)]:
        unit = random.integers(0, 4, int(random.integers(1, 4)))
        run = int(random.integers(12, 20))
        bases += [np.resize(unit, run), dense[number]]
        starts += list(range(at, at + run, 12))
        at += run
        starts += list(range(at, at + 30, _MASKED_SPAN))
        if half:
            spans += [(at + 6, at + 12), (at + 18, at + 24)]
            dense_again += [(at, at + 30)]
        at += 30
    rest = LENGTH - at
    bases.append(np.resize(random.integers(0, 4, 2), max(rest, 0)))
    starts += list(range(at, LENGTH, 12))
    truth = np.zeros(LENGTH, bool)
    truth[[start for start in starts if start < LENGTH]] = True
    spans = [span for span in spans if span[1] <= LENGTH]
    return _Text(np.concatenate(bases)[:LENGTH], truth, _flags(*dense_again), spans)


def _flags(*spans: tuple[int, int]) -> NDArray[np.bool_]:
    """True inside the spans [start, end)."""
    flags = np.zeros(LENGTH, bool)
    for start, end in spans:
        flags[start:end] = True
    return flags


# By name: a function of the generator, and of whether the text is for measuring.
LANGUAGES: dict[str, Callable[[np.random.Generator, bool], _Text]] = {
    "copy": lambda random, _: copy(random),
    "words": lambda random, _: words(random),
    "spaced": lambda random, _: spaced_words(random),
    "uneven": lambda random, _: uneven(random),
    "human_copy": human_copy,
}


def sample(language: str, rows: int, seed: int, noise: float = 0.01) -> Rows:
    """A batch of a language; the same for the same seed.

    Args:
        language: Of ``LANGUAGES``.
        rows: How many.
        seed: Of the text, of its masks (half of the maskable spans) and of the noise. From ``TEST_SEED`` on the text is
            for measuring.
        noise: This share of the bases is replaced by random ones, each copy's for itself.
    """
    random = np.random.default_rng(seed)
    input_ids, labels, truth, is_repeated = (np.zeros((rows, LENGTH), np.int64) for _ in range(4))
    for row in range(rows):
        text = LANGUAGES[language](random, seed >= TEST_SEED)
        noisy = random.random(LENGTH) < noise
        bases = np.where(noisy, random.integers(0, 4, LENGTH), text.bases) + FIRST_BASE
        chosen = random.permutation(len(text.maskable))[: max(len(text.maskable) // 2, 1)]
        target = _flags(*(text.maskable[number] for number in chosen))
        input_ids[row] = np.where(target, MASK_ID, bases)
        labels[row] = np.where(target, bases, -100)
        truth[row], is_repeated[row] = text.truth, text.is_repeated
    return Rows(
        torch.from_numpy(input_ids),
        torch.from_numpy(labels),
        torch.from_numpy(truth).bool(),
        torch.from_numpy(is_repeated).bool(),
    )


def mask_chunks(rows: Rows, starts: torch.Tensor, seed: int) -> Rows:
    """The same text with other masks: whole chunks of a chunker, about half of those that were said before.

    Args:
        rows: From ``sample``.
        starts: [rows, 192] where the chunker's final chunks begin on the rows without masks.
        seed: Of the choice. Of two neighbouring chunks at most one is masked.
    """
    random = np.random.default_rng(seed)
    target = np.zeros(starts.shape, bool)
    for row in range(len(starts)):
        edges = [*np.flatnonzero(starts[row].cpu().numpy()), LENGTH]
        inside = [
            (edges[n], edges[n + 1])
            for n in range(int(random.integers(0, 2)), len(edges) - 1, 2)
            if rows.is_repeated[row, edges[n] : edges[n + 1]].all()
        ]
        chosen = random.permutation(len(inside))[: max(len(inside) // 2, 1)]
        target[row] = _flags(*(inside[number] for number in chosen if inside))
    is_target = torch.from_numpy(target).to(rows.labels.device)
    return rows._replace(
        input_ids=torch.where(is_target, MASK_ID, rows.bases), labels=torch.where(is_target, rows.bases, -100)
    )


def replace_masks(rows: Rows, share: float, seed: int) -> Rows:
    """Show random bases instead of [MASK] in some of the masked spans; labels stay.

    Args:
        rows: A batch.
        share: Of the spans.
        seed: Of the choice and of the bases.
    """
    random = np.random.default_rng(seed)
    is_masked = (rows.input_ids == MASK_ID).cpu().numpy()
    span = np.cumsum(np.diff(is_masked.astype(np.int8), axis=1, prepend=0) == 1, axis=1)
    is_chosen = np.take_along_axis(random.random(span.shape) < share, span, axis=1) & is_masked
    bases = torch.from_numpy(random.integers(FIRST_BASE, FIRST_BASE + 4, span.shape)).to(rows.input_ids.device)
    return rows._replace(input_ids=torch.where(torch.from_numpy(is_chosen).to(bases.device), bases, rows.input_ids))
