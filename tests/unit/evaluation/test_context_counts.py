"""The count tables against a dictionary of strings, and on sequences whose entropy is known."""

from collections import Counter

import numpy as np
import pytest

from hnet_ntv2.errors import ConfigError, DataError
from hnet_ntv2.evaluation.context_counts import ContextCounts, composition_bits

LETTERS = "ACGT"
MASK, N = 3, 11


def ids(sequence: str) -> np.ndarray:
    return np.array([7 + "ACGTN".index(letter) for letter in sequence], np.uint8)


def random_sequence(rng: np.random.Generator, length: int, shares=(0.25, 0.25, 0.25, 0.25)) -> str:
    return "".join(rng.choice(list(LETTERS), size=length, p=shares))


def masked(sequence: str, starts: list[int], span: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """One row with spans shown as [MASK], and its labels."""
    shown, labels = ids(sequence)[None].astype(np.int64), np.full((1, len(sequence)), -100)
    for start in starts:
        labels[0, start : start + span] = shown[0, start : start + span]
    labels[labels == N] = -100
    shown[labels >= 0] = MASK
    return shown, labels


class SlowCounts:
    """The definition: every span of both strands, its flanks as strings."""

    def __init__(self, sequences: list[str], k: int, span: int):
        self.k, self.span, self.counts = k, span, Counter()
        flip = str.maketrans("ACGT", "TGCA")
        for sequence in [strand for s in sequences for strand in (s, s.translate(flip)[::-1])]:
            for start in range(k, len(sequence) - span - k + 1):
                whole = sequence[start - k : start + span + k]
                if "N" not in whole:
                    self._add(whole)

    def _add(self, whole: str) -> None:
        k, span = self.k, self.span
        left, middle, right = whole[:k], whole[k : k + span], whole[k + span :]
        for num_left in range(k + 1):
            for num_right in range(k + 1):
                for j in range(span):
                    self.counts[left[k - num_left :], right[:num_right], j, middle[j]] += 1

    def probability(self, left: str, right: str, j: int, letter: str, concentrations) -> float:
        """P of a letter between flanks given as they stand in the sequence, longest first."""
        probability, seen = 0.25, None
        for order, strength in enumerate(concentrations):
            lengths = min(len(left), order), min(len(right), order)
            if lengths != (self.k, self.k):
                lengths = min(lengths[0], self.k - 1), min(lengths[1], self.k - 1)
            if lengths == seen:
                continue
            seen = lengths
            context = left[len(left) - lengths[0] :], right[: lengths[1]]
            total = sum(self.counts[*context, j, other] for other in LETTERS)
            probability = (self.counts[*context, j, letter] + strength * probability) / (total + strength)
        return probability


def slow_flanks(shown: str, start: int, span: int, k: int) -> tuple[str, str]:
    """Clean letters on both sides of the span at ``start`` of a sequence in which "_" is a mask."""
    left, right = "", ""
    for letter in reversed(shown[:start]):
        if letter not in LETTERS or len(left) == k:
            break
        left = letter + left
    for letter in shown[start + span :]:
        if letter not in LETTERS or len(right) == k:
            break
        right += letter
    return left, right


@pytest.mark.parametrize(("k", "span"), [(1, 1), (2, 6), (3, 4)])
def test_equals_dictionary_of_strings(k, span):
    rng = np.random.default_rng(5)
    training = [random_sequence(rng, 900), random_sequence(rng, 300) + "N" + random_sequence(rng, 200)]
    model = ContextCounts.fit([ids(sequence) for sequence in training], k, span)
    slow = SlowCounts(training, k, span)
    # Both edges, a span next to another, one beside N, and free ones.
    sequence = random_sequence(rng, 60) + "N" + random_sequence(rng, 59)
    starts = [0, 20, 20 + span + 1, 61, 80, 100, 120 - span]
    shown, labels = masked(sequence, starts, span)
    written = "".join({MASK: "_", N: "N"}.get(i, LETTERS[(i - 7) % 4]) for i in shown[0])
    expected = []
    for start in starts:
        left, right = slow_flanks(written, start, span, k)
        for j in range(span):
            expected.append(-np.log2(slow.probability(left, right, j, sequence[start + j], model.concentrations)))
    np.testing.assert_allclose(model.bits_per_base(shown, labels), expected, rtol=1e-9)


def test_runs_longer_and_shorter_than_a_span():
    rng = np.random.default_rng(6)
    training = random_sequence(rng, 2000)
    model = ContextCounts.fit([ids(training)], 2, 6)
    slow = SlowCounts([training], 2, 6)
    sequence = random_sequence(rng, 80)

    def expect(left, right, j, at):
        return -np.log2(slow.probability(left, right, j, sequence[at], model.concentrations))

    shown, labels = masked(sequence, [30], span=15)
    bits = model.bits_per_base(shown, labels)
    assert bits[0] == pytest.approx(expect(sequence[28:30], "", 0, 30))
    assert bits[7] == pytest.approx(expect("", "", 0, 37)), "out of reach of both flanks: the composition"
    assert bits[-1] == pytest.approx(expect("", sequence[45:47], 5, 44))
    shown, labels = masked(sequence, [30], span=3)
    assert model.bits_per_base(shown, labels)[0] == pytest.approx(expect(sequence[28:30], sequence[36:38], 0, 30))


def test_periodic_sequence_costs_nothing():
    model = ContextCounts.fit([ids("ACGTTGC" * 2000)], 6)
    shown, labels = masked("ACGTTGC" * 30, [10, 50, 111, 160])
    assert model.bits_per_base(shown, labels).mean() < 0.01


@pytest.mark.parametrize("k", [2, 6])
def test_independent_letters_cost_their_entropy(k):
    rng = np.random.default_rng(7)
    shares = np.array([0.4, 0.1, 0.1, 0.4])
    model = ContextCounts.fit([ids(random_sequence(rng, 200_000, shares))], k)
    test = random_sequence(rng, 60_000, shares)
    shown, labels = masked(test, list(range(20, 59_900, 40)))
    entropy = -(shares * np.log2(shares)).sum()
    assert model.bits_per_base(shown, labels).mean() == pytest.approx(entropy, abs=0.03)
    assert composition_bits([ids(test)], labels).mean() == pytest.approx(entropy, abs=0.02)


def test_composition_joins_both_strands():
    labels = ids("AT")[None].astype(np.int64)
    assert composition_bits([ids("A" * 97 + "C")], labels) == pytest.approx([-np.log2(98 / 200)] * 2)


def test_probabilities_sum_to_one():
    rng = np.random.default_rng(8)
    model = ContextCounts.fit([ids(random_sequence(rng, 5000))], 3)
    sequence = random_sequence(rng, 40)
    total = np.zeros(6)
    for letter in LETTERS:
        shown, labels = masked(sequence[:17] + letter * 6 + sequence[23:], [17])
        total += 2.0 ** -model.bits_per_base(shown, labels)
    np.testing.assert_allclose(total, 1, rtol=1e-12)


def test_rejects_targets_that_can_be_copied():
    model = ContextCounts.fit([ids("ACGTTGCA" * 20)], 2)
    shown, labels = masked("ACGTTGCA" * 5, [8])
    shown[0, 9] = 8
    with pytest.raises(DataError, match=r"shown as ids \[3, 8\]"):
        model.bits_per_base(shown, labels)


def test_rejects_what_cannot_be_counted():
    with pytest.raises(ConfigError, match="k=7"):
        ContextCounts.fit([ids("ACGT" * 100)], 7)
    with pytest.raises(DataError, match="18 A, C, G, T in a row"):
        ContextCounts.fit([ids("ACGTACGTN" * 100)], 6)
    with pytest.raises(DataError, match="hold no A, C, G or T"):
        composition_bits([ids("NNN")], np.full((1, 3), -100))
