"""Where the ratio loss looks: at decisions that are the router's and that no mask has a part in."""

import torch

from hnet_ntv2.kmers import holds_mask
from hnet_ntv2.levels import BoundaryReason
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.vocabulary import MASK_ID
from tests.builders import random_dna, tiny_config

LENGTH = 240


def masked_and_clean(rng):
    clean = random_dna(LENGTH, rng, 2)
    is_masked = torch.zeros_like(clean, dtype=torch.bool)
    is_masked[0, 40:46] = is_masked[0, 120:121] = is_masked[1, 60:72] = is_masked[1, 200:206] = True
    return clean.masked_fill(is_masked, MASK_ID), clean, is_masked


def test_holds_mask_by_hand():
    is_masked = torch.tensor([[False, False, False, True, False, False]])
    assert holds_mask(is_masked, 3).tolist() == [[False, True, True, True, False, False]]
    assert torch.equal(holds_mask(is_masked, 1), is_masked)


def test_masks_have_no_part_in_what_is_counted(rng):
    """A new model's encoders change nothing, so that its first router sees k-mers and nothing else."""
    model = HNetNTV2ForMaskedLM(tiny_config(chunker="learned")).eval()
    masked, clean, is_masked = masked_and_clean(rng)
    seen = model(masked, strands="forward").stages[0]
    unmasked = model(clean, strands="forward").stages[0]
    assert torch.equal(seen.probability[seen.is_counted], unmasked.probability[seen.is_counted])
    is_left_out = seen.is_free & ~seen.is_counted
    assert bool(is_left_out.any())
    assert not torch.equal(seen.probability[is_left_out], unmasked.probability[is_left_out])
    assert not bool((seen.is_counted & is_masked).any())
    without_masks = model(clean, strands="forward").stages
    assert all(torch.equal(stage.is_counted, stage.is_free) for stage in without_masks)


def test_inner_stages_leave_out_chunks_that_begin_beside_a_mask(rng):
    model = HNetNTV2ForMaskedLM(tiny_config()).eval()
    masked, _, is_masked = masked_and_clean(rng)
    inner = model(masked, strands="forward").stages[1]
    window = holds_mask(is_masked, model.config.kmer_size)
    for row, position in inner.is_counted.nonzero().tolist():
        base = int(inner.first_base[row, position])
        assert not bool(window[row, max(base - 1, 0) : base + 1].any())


def test_without_masks_the_share_counted_is_the_share_of_chunks(rng):
    """So what the loss holds is what a user gets: chunks per position, the cap's included."""
    config = tiny_config(max_chunk_length=4)
    model = HNetNTV2ForMaskedLM(config).eval()
    stages = model(random_dna(LENGTH, rng, 2), strands="forward").stages
    assert any(bool((stage.reason == BoundaryReason.CAP).any()) for stage in stages)
    for stage in stages:
        kept = (stage.is_boundary & stage.is_counted).sum()
        assert int(kept) == int(stage.is_boundary.sum()) - 2  # the row starts are forced
        assert int(stage.is_counted.sum()) == int(stage.is_valid.sum()) - 2
