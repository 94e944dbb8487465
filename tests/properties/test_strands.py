"""Results for a sequence and its reverse complement are equal; chunk fields stay per strand."""

import torch

from hnet_ntv2.kmers import flip_rows, reverse_complement
from tests.builders import ids, random_dna, tiny_model, valid


def rows(rng):
    input_ids = ids("ACGT" * 30, "ACGT" * 20)
    input_ids[0] = random_dna(120, rng)[0]
    input_ids[1, :80] = random_dna(80, rng)[0]
    input_ids[:, 30:36] = 3
    input_ids[0, 70:75] = 11
    return input_ids


def complement_columns(logits):
    swapped = logits.clone()
    swapped[..., 7:11] = logits[..., 7:11].flip(-1)
    return swapped


def test_logits_of_the_reverse_complement_are_mirrored(rng):
    model, forward = tiny_model(spread=0.05), rows(rng)
    is_valid = valid(forward)
    expected = model(forward).logits
    mirrored = model(reverse_complement(forward, is_valid)).logits
    back = complement_columns(flip_rows(mirrored, is_valid))
    assert (back - expected)[is_valid].abs().max() < 1e-5
    one_strand = model(forward, strands="forward").logits
    assert (one_strand - expected)[is_valid].abs().max() > 1e-3  # the average is not what one strand says


def test_embeddings_of_the_reverse_complement_are_mirrored(rng):
    model, forward = tiny_model(spread=0.05).model, rows(rng)
    is_valid = valid(forward)
    expected = model(forward).last_hidden_state
    mirrored = model(reverse_complement(forward, is_valid)).last_hidden_state
    assert (flip_rows(mirrored, is_valid) - expected)[is_valid].abs().max() < 1e-5


def test_both_strands_average_log_probabilities(rng):
    model, forward = tiny_model(spread=0.05), rows(rng)
    is_valid = valid(forward)
    one = model(forward, strands="forward").logits[..., 7:11].log_softmax(-1)
    other = model(reverse_complement(forward, is_valid), strands="forward").logits[..., 7:11].log_softmax(-1)
    mean = (one + flip_rows(other, is_valid).flip(-1)) / 2
    both = model(forward).logits[..., 7:11]
    assert (both - mean)[is_valid].abs().max() < 1e-5


def test_chunk_fields_come_per_strand(rng):
    model, forward = tiny_model(spread=0.05), rows(rng)
    output = model(forward)
    single = model(forward, strands="forward")
    reverse = model(reverse_complement(forward, valid(forward)), strands="forward")
    for stage, expected in ((output.stages[0], single.stages[0]), (output.reverse_stages[0], reverse.stages[0])):
        assert torch.equal(stage.is_boundary, expected.is_boundary)
    assert single.reverse_stages is None


def test_training_and_one_stranded_models_run_one_strand(rng):
    forward = rows(rng)
    assert tiny_model().train()(forward).reverse_stages is None
    assert tiny_model(bidirectional=False)(forward).reverse_stages is None
    assert tiny_model(bidirectional=False)(forward, strands="both").reverse_stages is not None


def test_flags_per_base_are_mirrored_for_the_other_strand(rng):
    model = tiny_model(spread=0.05)
    forward = random_dna(64, rng)
    on_grid = torch.zeros(1, 64, dtype=torch.bool)
    on_grid[:, :32] = True
    output = model(forward, on_grid=on_grid)
    reasons = output.reverse_stages[1].reason[0][output.reverse_stages[1].is_valid[0]]
    assert (output.stages[0].reason[0, :32] <= 3).all()
    assert (output.stages[0].reason[0, 1:32] == 3).all()
    assert (output.reverse_stages[0].reason[0, 33:] == 3).all()
    assert len(reasons) > 0
