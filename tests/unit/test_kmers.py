"""Token ids per base, the grid, strands and marginals, against slow definitions."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet_ntv2.kmers import (
    flip_rows,
    grid_cells,
    kmer_marginals,
    letter_log_probs,
    reverse_complement,
    source_token_ids,
)
from tests.builders import ids, valid
from tests.oracles import kmer_at, marginals_of, ntv2_tokens

K = 3
KMERS = ["".join(letters) for letters in itertools.product("ATCG", repeat=K)]
VOCABULARY = ["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>", *KMERS, "A", "T", "C", "G", "N"]
DNA = st.text("ACGTNM", min_size=1, max_size=30)


@given(DNA)
@settings(max_examples=200, deadline=None)
def test_every_base_carries_the_token_that_starts_there(letters):
    row = ids(letters)
    tokens = source_token_ids(row, valid(row), K)[0]
    assert [VOCABULARY[token] for token in tokens] == [kmer_at(letters, i, K) for i in range(len(letters))]


def test_other_specials_are_unknown_and_break_kmers():
    row = ids("ACSACGUAP")
    tokens = [VOCABULARY[token] for token in source_token_ids(row, valid(row), K)[0]]
    assert tokens == ["A", "C", "<unk>", "ACG", "C", "G", "<unk>", "A", "<pad>"]


@given(DNA)
@settings(max_examples=200, deadline=None)
def test_grid_cells_are_ntv2_tokens(letters):
    row = ids(letters)
    cells = grid_cells(row, valid(row), K)
    starts, position = [], 0
    middles, whole = [], []
    for token in ntv2_tokens(letters, K):
        starts += [position] * len(token)
        middles += [len(token) == K and offset == K // 2 for offset in range(len(token))]
        whole += [len(token) == K] * len(token)
        position += len(token)
    assert cells.first[0].tolist() == starts
    assert cells.is_start[0].tolist() == [start == i for i, start in enumerate(starts)]
    assert cells.is_middle[0].tolist() == middles
    assert cells.is_whole[0].tolist() == whole


def test_padding_changes_no_token_and_no_cell():
    alone, beside = ids("ACGTACGTNACG"), ids("ACGTACGTNACG", "ACGTACGTNACGACGTTT")
    length = alone.shape[1]
    assert torch.equal(
        source_token_ids(beside, valid(beside), K)[0, :length], source_token_ids(alone, valid(alone), K)[0]
    )
    for padded, single in zip(grid_cells(beside, valid(beside), K), grid_cells(alone, valid(alone), K), strict=True):
        assert torch.equal(padded[0, :length], single[0])


def test_reverse_complement_table():
    rows = ids("AACGTNM", "ACG")
    assert torch.equal(reverse_complement(rows, valid(rows)), ids("MNACGTT", "CGT"))
    twice = reverse_complement(reverse_complement(rows, valid(rows)), valid(rows))
    assert torch.equal(twice, rows)


def test_flip_rows_keeps_trailing_dimensions_and_padding():
    rows = ids("ACG", "AC")
    values = torch.arange(12.0).reshape(2, 3, 2)
    flipped = flip_rows(values, valid(rows))
    assert torch.equal(flipped[0], values[0].flip(0))
    assert torch.equal(flipped[1], values[1, [1, 0, 2]])


def test_marginals_sum_the_softmax_over_kmers_only(rng):
    logits = torch.randn(5, 4**K + 11, generator=rng, dtype=torch.float64) * 3
    logits[:, :6] = 50.0  # specials must not matter
    probability = logits[:, 6 : 6 + 4**K].softmax(-1).numpy()
    expected = np.stack([marginals_of(row, K) for row in probability])
    np.testing.assert_allclose(kmer_marginals(logits, K).exp().numpy(), expected, atol=1e-12)
    letters = letter_log_probs(logits, K).exp()
    expected = logits[:, 6 + 4**K : 10 + 4**K].softmax(-1)[:, [0, 2, 3, 1]]  # A T C G -> A C G T
    assert torch.allclose(letters, expected)


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_marginals_of_a_certain_kmer_stay_finite(scale):
    logits = torch.zeros(1, 4**K + 11)
    logits[0, 6] = scale
    assert torch.isfinite(kmer_marginals(logits, K)).all()


def test_ids_that_are_no_base_stay_what_they_are_on_the_other_strand():
    others = torch.tensor([[0, 1, 2, 3, 5, 6, 11, 12, 15]])
    assert torch.equal(reverse_complement(others, torch.ones_like(others, dtype=torch.bool)), others.flip(1))
