"""Chunks without running trunk and decoders are the chunks of the whole model."""

import pytest
import torch

from tests.builders import ids, lively_model, random_dna


@pytest.mark.parametrize("changes", [{}, {"d_base": 16}])
def test_chunk_gives_the_stages_of_forward(rng, changes):
    model = lively_model(**changes)
    rows = random_dna(180, rng, 3)
    rows[1, 40:52] = 3
    rows[2, 100:] = 4
    for given in (rows, ids("ACGTNNACGTTGCA", "AC")):
        expected = model(given, strands="forward", anchors=False).stages
        found = model.model.chunk(given)
        assert len(found) == len(expected)
        for left, right in zip(found, expected, strict=True):
            for name in left._fields:
                assert torch.equal(getattr(left, name), getattr(right, name)), name


def test_padding_is_told_by_a_mask_too(rng):
    model = lively_model()
    rows = random_dna(60, rng, 2)
    is_real = torch.ones_like(rows)
    is_real[1, 50:] = 0
    chunks = model.model.chunk(rows, is_real)
    assert chunks[0].is_valid.sum(1).tolist() == [60, 50]
    assert torch.equal(
        chunks[1].is_boundary, model(rows, is_real, strands="forward", anchors=False).stages[1].is_boundary
    )
