"""Chunk counts stay in bounds whatever the routers say, and masks and labels leave no trace that leaks."""

import pytest
import torch

from hnet_ntv2.levels import BoundaryReason, final_boundaries, final_chunk_of
from tests.builders import random_dna, tiny_model


def say(model, everywhere: bool) -> None:
    """Make both routers answer p = 1 (or 0) at every position."""
    for name, buffer in model.named_buffers():
        if name.endswith("router.beta"):
            buffer.fill_(10.0 if everywhere else -10.0)


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("length", [1, 13, 500, 2048])
def test_counts_stay_within_the_guards(everywhere, length, rng):
    model = tiny_model(spread=0.05)
    say(model, everywhere)
    outer, inner = model(random_dna(length, rng), strands="forward").stages
    num_outer, num_inner = int(outer.is_boundary.sum()), int(inner.is_boundary.sum())
    assert min(length, -(-15 * length // 100)) <= num_outer <= max(1, 60 * length // 100)
    num_beyond_guard = int((inner.is_boundary & (inner.reason != BoundaryReason.GUARD) & ~inner.is_free).sum())
    num_capped = int((inner.is_boundary & (inner.reason == BoundaryReason.CAP)).sum())
    # Chunks of stage 1 that are too long in pairs are final chunks each: the cap comes before the guard.
    assert num_inner <= max(1, 90 * num_outer // 100, num_beyond_guard + num_capped)
    assert num_inner >= -(-25 * num_outer // 100)


@pytest.mark.parametrize("everywhere", [True, False])
def test_no_final_chunk_is_longer_than_the_cap(everywhere, rng):
    model = tiny_model(spread=0.05)
    say(model, everywhere)
    output = model(random_dna(1000, rng), strands="forward")
    starts = torch.cat([final_boundaries(output.stages)[0].nonzero()[:, 0], torch.tensor([1000])])
    assert starts.diff().max() <= 12
    assert torch.equal(final_boundaries(output.stages)[0].long().cumsum(0) - 1, final_chunk_of(output.stages)[0])


def test_a_final_boundary_is_a_boundary_in_every_stage(rng):
    input_ids = random_dna(600, rng)
    input_ids[0, 100:106] = 3
    output = tiny_model(spread=0.05, target_ratio_stage3=0.5)(input_ids, strands="forward", anchors=True)
    assert (output.stages[0].is_boundary | ~final_boundaries(output.stages)).all()


def test_masked_chunks_hold_nothing_but_masks(rng):
    input_ids = random_dna(600, rng)
    for start in range(20, 560, 31):
        input_ids[0, start : start + 6] = 3
    is_masked = input_ids[0] == 3
    chunk_of = final_chunk_of(tiny_model(spread=0.05)(input_ids, strands="forward").stages)[0]
    for chunk in chunk_of[is_masked].unique():
        assert is_masked[chunk_of == chunk].all()


def test_logits_do_not_depend_on_labels(rng):
    model = tiny_model(spread=0.05)
    input_ids = random_dna(100, rng)
    input_ids[0, 40:46] = 3
    labels = torch.full_like(input_ids, -100)
    labels[0, 40:46] = 9
    assert torch.equal(model(input_ids).logits, model(input_ids, labels=labels).logits)


def test_skip_path_is_closed_for_masked_bases(rng):
    """With a skip path that shouts, a masked base must not hear it while its neighbours do."""
    model = tiny_model()
    stage = model.model.hierarchy
    seen = {}
    stage.upsampler.register_forward_hook(lambda module, args, output: seen.update(output=output))
    input_ids = random_dna(60, rng)
    input_ids[0, 20:26] = 3
    before = model.train()(input_ids) and seen["output"].clone()
    torch.nn.init.constant_(stage.upsampler.skip.bias, 100.0)
    changed = ((model(input_ids) and seen["output"]) - before).abs().amax(-1)[0] > 1
    assert torch.equal(changed, input_ids[0] != 3)


def test_reasons_are_complete(rng):
    input_ids = torch.nn.functional.pad(random_dna(200, rng), (0, 10), value=4)
    input_ids[0, 50:56] = 3
    stage = tiny_model(spread=0.05)(input_ids, strands="forward").stages[0]
    assert stage.reason[0, 0] == BoundaryReason.ROW_START
    assert (stage.reason[0, 50:57] == BoundaryReason.MASK).all()
    assert (stage.reason[0, 200:] == BoundaryReason.PADDING).all()
    assert torch.equal(stage.is_free[0], stage.is_free[0] & (stage.reason[0] != BoundaryReason.MASK))
