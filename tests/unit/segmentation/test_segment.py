"""Segmentation: chunks tile every sequence, agree with the model and with both strands, and stay within the cap."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from hnet_ntv2.embedding import NamedSequence
from hnet_ntv2.errors import DataError
from hnet_ntv2.genome import Interval, encode, reverse_complement
from hnet_ntv2.levels import final_boundaries
from hnet_ntv2.segmentation import (
    Region,
    SegmentSettings,
    joint_boundary_probability,
    segment_sequences,
    write_tracks,
)
from hnet_ntv2.segmentation.segment import cuts_of_long_chunks
from tests.builders import ids, lively_model, random_letters

LENGTHS = (1, 2, 13, 99, 100, 101, 250, 731)
SMALL = {"window": 100, "flank": 20}


@pytest.fixture(scope="module")
def model():
    return lively_model()


def segment(model, *texts, **settings):
    sequences = [NamedSequence("s", encode(text.encode())) for text in texts]
    return [found for _, found in segment_sequences(model, sequences, SegmentSettings(**settings))]


@pytest.mark.parametrize("strands", ["both", "forward"])
def test_chunks_tile_every_sequence_within_the_cap(model, strands):
    texts = [random_letters(length, length, "ACGTN") for length in LENGTHS]
    for found, length in zip(segment(model, *texts, strands=strands, **SMALL), LENGTHS, strict=True):
        stage1, final = found.starts
        for stage in (0, 1):
            assert found.starts[stage][0] == 0
            assert found.chunk_lengths(stage).min() > 0
            assert found.chunk_lengths(stage).sum() == length
        assert set(final) <= set(stage1)
        assert found.chunk_lengths().max() <= model.config.max_chunk_length
        assert found.probability[0] == found.final_probability[0] == 1
        assert ((found.final_probability >= 0) & (found.final_probability <= found.probability)).all()


def test_both_strands_of_a_sequence_are_cut_alike(model):
    for length in (100, 333, 334):
        bases = encode(random_letters(length, length).encode())
        settings = SegmentSettings(**SMALL)
        pair = [NamedSequence("here", bases), NamedSequence("there", reverse_complement(bases))]
        here, there = (found for _, found in segment_sequences(model, pair, settings))
        for one, other in zip(here.starts, there.starts, strict=True):
            assert one[1:].tolist() == sorted(length - other[1:])
            assert len(one) > 3
        np.testing.assert_allclose(here.probability[1:], there.probability[:0:-1], atol=1e-5)
        np.testing.assert_allclose(here.final_probability[1:], there.final_probability[:0:-1], atol=1e-5)


def test_one_strand_takes_the_models_own_decisions(model):
    text = random_letters(200, 5)
    found = segment(model, text, strands="forward")[0]
    with torch.no_grad():
        stages = model.model(ids(text), strands="forward").stages
    assert found.starts[0].tolist() == stages[0].is_boundary[0].nonzero()[:, 0].tolist()
    assert found.starts[1].tolist() == final_boundaries(stages)[0].nonzero()[:, 0].tolist()


def test_joint_stages_by_the_definition(model):
    """The slow way: stage-1 p averaged at junctions; stage-2 p over the strands that have a stage-1 chunk there."""
    length = 150
    text = random_letters(length, 6)
    found = segment(model, text)[0]
    with torch.no_grad():
        output = model.model(ids(text), strands="both")
    is_valid = output.stages[0].is_valid
    first = joint_boundary_probability(output.stages[0].probability, output.reverse_stages[0].probability, is_valid)[0]
    np.testing.assert_allclose(found.probability, first, atol=1e-6)
    said: list[list[float]] = [[] for _ in range(length + 1)]
    for stages, place in ((output.stages, lambda base: base), (output.reverse_stages, lambda base: length - base)):
        inner = stages[1]
        for base, probability in zip(inner.first_base[0].tolist(), inner.probability[0].tolist(), strict=True):
            if base or stages is output.stages:
                said[place(base)].append(probability)
    second = np.array([np.mean(each) if each else 0.0 for each in said[:length]])
    second[0] = 1
    np.testing.assert_allclose(found.final_probability, first.numpy() * second, atol=1e-6)
    final = set(np.flatnonzero((first.numpy() > 0.5) & (second > 0.5)))
    assert final <= set(found.starts[1].tolist())
    assert all(found.final_probability[base] <= 0.5 for base in set(found.starts[1].tolist()) - final), "only the cap"


def test_chunks_do_not_depend_on_their_company(model):
    texts = [random_letters(length, length) for length in LENGTHS]
    together = segment(model, *texts, **SMALL)
    for found, text in zip(together, texts, strict=True):
        alone = segment(model, text, batch_bases=1, **SMALL)[0]
        assert all(np.array_equal(one, other) for one, other in zip(found.starts, alone.starts, strict=True))


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


def test_tracks_are_bed_and_bedgraph_of_the_region(model, tmp_path):
    regions = [
        Region(Interval("chr2", 1000, 1300), encode(random_letters(300, 1).encode())),
        Region(Interval("chrX", 0, 7), encode(b"acgtNNA")),
    ]
    paths = [tmp_path / name for name in ("chunks.bed", "stage1.bed", "p.bedgraph")]
    summary = write_tracks(segment_sequences(model, regions, SegmentSettings(**SMALL)), *paths)
    rows = [[line.split("\t") for line in path.read_text().splitlines()] for path in paths]
    for track in rows:
        for region in regions:
            spans = [(int(row[1]), int(row[2])) for row in track if row[0] == region.interval.contig]
            assert spans[0][0] == region.interval.start
            assert spans[-1][1] == region.interval.end
            assert all(one[1] == other[0] for one, other in pairwise(spans))
    for track in rows[:2]:
        assert [row[3] for row in track] == [f"chunk{number}" for number in range(1, len(track) + 1)]
        assert all(len(row) == 6 and 0 <= int(row[4]) <= 1000 and row[5] == "." for row in track)
    assert rows[0][0][4] == "1000"
    assert all(0 <= float(row[3]) <= 1 for row in rows[2])
    lengths = sorted(int(row[2]) - int(row[1]) for row in rows[0])
    assert (summary.num_chunks, summary.num_bases, summary.num_regions) == (len(rows[0]), 307, 2)
    assert summary.percentile(1.0) == lengths[-1]
    assert summary.percentile(0.5) == lengths[(len(lengths) + 1) // 2 - 1]


def test_nothing_is_written_without_regions(model, tmp_path):
    with pytest.raises(DataError, match="no region"):
        write_tracks(segment_sequences(model, []), tmp_path / "chunks.bed")
    assert list(tmp_path.iterdir()) == []
