"""Segmentation: the model's own chunks on either strand; they tile every sequence and stay within the cap."""

from itertools import combinations

import numpy as np
import pytest
import torch

from hnet_ntv2.embedding import NamedSequence
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.genome import encode, reverse_complement
from hnet_ntv2.inference import windows
from hnet_ntv2.levels import final_boundaries
from hnet_ntv2.segmentation import SegmentSettings, segment_sequences
from hnet_ntv2.segmentation.stitch import cuts_of_long_chunks
from tests.builders import ids, lively_model, random_letters
from tests.oracles import segment_at_once

LENGTHS = (1, 2, 13, 99, 100, 101, 250, 331)
SMALL = {"window": 100, "flank": 20}


@pytest.fixture(scope="module")
def model():
    return lively_model()


def segment(model, *texts, **settings):
    """One per text, with both strands two."""
    sequences = [NamedSequence("s", encode(text.encode())) for text in texts]
    return [found for _, found in segment_sequences(model, sequences, SegmentSettings(**settings))]


def assert_same(one, other):
    assert (one.strand, one.start, one.end) == (other.strand, other.start, other.end)
    assert all(np.array_equal(*pair) for pair in zip(one.starts, other.starts, strict=True))
    np.testing.assert_array_equal(one.probability, other.probability)
    np.testing.assert_array_equal(one.final_probability, other.final_probability)


@pytest.mark.parametrize("strands", ["both", "forward"])
def test_chunks_tile_every_sequence_within_the_cap(model, strands):
    texts = [random_letters(length, length, "ACGTN") for length in LENGTHS]
    num_strands = 2 if strands == "both" else 1
    found = segment(model, *texts, strands=strands, **SMALL)
    assert [each.strand for each in found] == (["+", "-"] if strands == "both" else ["+"]) * len(LENGTHS)
    for each, length in zip(found, np.repeat(LENGTHS, num_strands), strict=True):
        assert (each.start, each.end) == (0, length)
        stage1, final = each.starts
        for stage in (0, 1):
            assert each.starts[stage][0] == 0
            assert each.chunk_lengths(stage).min() > 0
            assert each.chunk_lengths(stage).sum() == length
        assert set(final) <= set(stage1)
        assert each.chunk_lengths().max() <= model.config.max_chunk_length
        first_read = 0 if each.strand == "+" else -1
        assert each.probability[first_read] == each.final_probability[first_read] == 1
        assert each.beginning()[first_read] == 1
        assert ((each.final_probability >= 0) & (each.final_probability <= each.probability)).all()


def test_the_reverse_strands_chunks_are_those_of_the_reverse_complement(model):
    """Mapped back: a chunk of bases [start, end) of the reverse complement is [length - end, length - start)."""
    for length in (1, 100, 333, 334):
        text = random_letters(length, length)
        reverse = segment(model, text, strands="both", **SMALL)[1]
        pair = [NamedSequence("there", reverse_complement(encode(text.encode())))]
        there = next(found for _, found in segment_sequences(model, pair, SegmentSettings(**SMALL)))
        for stage in (0, 1):
            assert reverse.starts[stage].tolist() == (length - there.chunk_ends(stage))[::-1].tolist()
            assert reverse.chunk_lengths(stage).tolist() == there.chunk_lengths(stage)[::-1].tolist()
            np.testing.assert_allclose(reverse.beginning(stage), there.beginning(stage)[::-1], atol=1e-6)
        np.testing.assert_allclose(reverse.probability, there.probability[::-1], atol=1e-6)


def test_the_strands_are_two_answers(model):
    forward, reverse = segment(model, random_letters(300, 3), strands="both", **SMALL)
    assert set(forward.starts[-1]) != set(reverse.starts[-1])
    assert_same(forward, segment(model, random_letters(300, 3), **SMALL)[0])


@pytest.mark.parametrize("strands", ["both", "forward"])
def test_a_window_has_the_models_own_chunks(model, strands):
    length = 200
    text = random_letters(length, 5, "ACGTN")
    found = segment(model, text, strands=strands, window=length)
    with torch.no_grad():
        output = model(ids(text), strands=strands, anchors=False)
    assert [each.strand for each in found] == (["+", "-"] if strands == "both" else ["+"])
    for each, stages in zip(found, [output.stages, output.reverse_stages], strict=False):
        for stage, begins in ((0, stages[0].is_boundary[0]), (1, final_boundaries(stages)[0])):
            read = begins.nonzero()[:, 0].tolist()
            ends = [*read[1:], length]
            expected = read if each.strand == "+" else [length - end for end in reversed(ends)]
            assert each.starts[stage].tolist() == expected
        p = stages[0].probability[0].numpy()
        np.testing.assert_allclose(each.probability, p if each.strand == "+" else p[::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("length", "changes"),
    [
        *((length, {}) for length in (100, 101, 250, 531)),
        (330, {"max_chunk_length": None}),
        (331, {"target_ratio_stage2": None}),
    ],
)
def test_blocks_give_what_the_whole_sequence_at_once_gives(length, changes, monkeypatch):
    model = lively_model(**changes)
    text = random_letters(length, length, "ACGT" * 8 + "N")
    monkeypatch.setattr(windows, "_BATCHES_PER_BLOCK", 1)
    found = segment(model, text, strands="both", batch_bases=200, **SMALL)
    for each, expected in zip(found, segment_at_once(model, text, 100, 20, batch_bases=200), strict=True):
        starts, probability, final_probability = expected
        assert [stage.tolist() for stage in each.starts] == starts
        np.testing.assert_allclose(each.probability, probability, atol=1e-6)
        np.testing.assert_allclose(each.final_probability, final_probability, atol=1e-6)


def test_windows_that_keep_a_base_each_are_put_together(monkeypatch):
    """Chunks reach over many windows here, and what is pending over many blocks."""
    monkeypatch.setattr(windows, "_BATCHES_PER_BLOCK", 1)
    model, text = lively_model(), random_letters(40, 2)
    for each, expected in zip(
        segment(model, text, strands="both", window=27, flank=12, batch_bases=27),
        segment_at_once(model, text, 27, 12, batch_bases=27),
        strict=True,
    ):
        assert [stage.tolist() for stage in each.starts] == expected[0]


def test_chunks_do_not_depend_on_their_company(model):
    texts = [random_letters(length, length) for length in LENGTHS]
    together = segment(model, *texts, **SMALL)
    for found, text in zip(together, texts, strict=True):
        alone = segment(model, text, batch_bases=1, **SMALL)[0]
        assert all(np.array_equal(one, other) for one, other in zip(found.starts, alone.starts, strict=True))


def test_sequences_are_read_when_they_are_needed(model, monkeypatch):
    monkeypatch.setattr(windows, "_BATCHES_PER_BLOCK", 1)
    num_read = 0

    def read():
        nonlocal num_read
        for num_read in range(1, 6):
            yield NamedSequence("s", encode(random_letters(100, num_read).encode()))

    found = segment_sequences(model, read(), SegmentSettings(batch_bases=100, **SMALL))
    next(found)
    assert num_read == 1


def test_the_window_defaults_to_the_length_of_training():
    model, text = lively_model(training_length=100), random_letters(300, 4)
    assert_same(segment(model, text)[0], segment(model, text, window=100)[0])
    unknown = lively_model()
    assert_same(segment(unknown, text)[0], segment(unknown, text, window=6144)[0])
    assert not np.array_equal(segment(model, text)[0].probability, segment(unknown, text)[0].probability)
    with pytest.raises(ConfigError, match="window=100 with flank=60 keeps nothing"):
        segment(model, text, flank=60)


def test_long_chunks_are_cut_where_a_boundary_is_most_probable():
    """The slow way: of all sets of as few cuts as possible, the one with the highest total."""
    generator = np.random.default_rng(5)
    for length, cap in ((2, 1), (7, 3), (12, 5), (13, 4), (16, 4), (17, 6)):
        score = generator.random(length)
        num_cuts = -(-length // cap) - 1
        allowed = [cuts for cuts in combinations(range(1, length), num_cuts) if max(np.diff([0, *cuts, length])) <= cap]
        expected = max(allowed, key=lambda cuts: score[list(cuts)].sum())
        begins = np.zeros(length + 4, bool)
        begins[[0, 1, length + 1, length + 3]] = True
        found = cuts_of_long_chunks(begins, np.concatenate([[0], score, [0, 0, 0]]), cap)
        extra = [length + 2] if cap == 1 else []
        assert found == [1 + cut for cut in expected] + extra
    assert cuts_of_long_chunks(np.array([True, False]), np.zeros(2), cap=2) == []
    assert cuts_of_long_chunks(np.zeros(0, bool), np.zeros(0), cap=2) == []
