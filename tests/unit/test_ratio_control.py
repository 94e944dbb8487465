"""The ratio loss, and the offsets that keep the shares of boundaries near their targets while the weights change."""

import pytest
import torch

from hnet_ntv2.conversion.calibrate import calibrate_routers
from hnet_ntv2.levels import BoundaryReason
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.ratio_control import boundary_shares, count_boundaries, mean_over_counted, move_offsets, ratio_losses
from tests.builders import random_dna, tiny_model

LENGTH, TARGETS = 384, (0.3, 0.5)


@pytest.fixture
def model() -> HNetNTV2ForMaskedLM:
    model = tiny_model(2, spread=0.05, d_model=64, initializer_range=0.5, chunker="learned")
    calibrate_routers(model.model, [clean_windows(8, seed=0)])
    return model


def clean_windows(number: int, seed: int) -> torch.Tensor:
    return random_dna(LENGTH, torch.Generator().manual_seed(seed), number)


def masked(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.full_like(ids, -100)
    labels[:, 30:60] = ids[:, 30:60]
    return ids.masked_fill(labels != -100, 3), labels


def shares(model, ids) -> list[float]:
    return [float(share) for share in boundary_shares(count_boundaries(model.model.chunk(ids)).sum(0), TARGETS)]


def offsets(model) -> list[float]:
    return [float(router.beta) for router in model.model.routers]


def test_offsets_move_towards_the_target_however_the_router_drifted(model):
    ids = clean_windows(16, seed=1)
    for router, offset in zip(model.model.routers, (0.05, -0.08), strict=True):
        router.beta.add_(offset)
    before = shares(model, ids)
    for _ in range(20):
        move_offsets(model.model.routers, count_boundaries(model.model.chunk(ids)).sum(0), TARGETS, 0.1)
    for target, drifted, settled in zip(TARGETS, before, shares(model, ids), strict=True):
        assert abs(drifted - target) > 0.1 * target
        assert abs(settled - target) < 0.03 * target


def test_a_rate_of_zero_and_frozen_routers_hold_the_offsets(model):
    counts, before = count_boundaries(model.model.chunk(clean_windows(2, seed=3))).sum(0), offsets(model)
    move_offsets(model.model.routers, counts, TARGETS, 0.0)
    assert offsets(model) == before
    model.requires_grad_(False)
    move_offsets(model.model.routers, counts, TARGETS, 0.5)
    assert offsets(model) == before


def test_training_counts_the_sequence_without_masks_and_grid(model):
    ids = clean_windows(4, seed=4)
    shown, labels = masked(ids)
    expected = count_boundaries(model.model.chunk(ids))
    model.train().moves_offsets = False
    for on_grid in (False, True):
        assert torch.equal(model(shown, labels=labels, on_grid=on_grid).boundary_counts, expected)
    assert not torch.equal(model.eval()(shown, labels=labels, strands="forward").boundary_counts, expected)


def test_forward_moves_the_offsets_in_training_with_labels_only(model):
    shown, labels = masked(clean_windows(4, seed=4))
    before = offsets(model)
    model.eval()(shown, labels=labels)
    model.train()(shown)
    with torch.no_grad():
        model(shown, labels=labels)
    assert offsets(model) == before
    output = model(shown, labels=labels)
    for share, target, old, new in zip(
        boundary_shares(output.boundary_counts.sum(0), TARGETS), TARGETS, before, offsets(model), strict=True
    ):
        assert new - old == pytest.approx(0.1 * (target - float(share)), abs=1e-6)
        assert new != old


def test_the_cap_counts_and_the_guard_does_not(model):
    ids = clean_windows(4, seed=5)
    for router in model.model.routers:
        router.beta.fill_(-1.0)  # no boundary from the router: cap and guard make them all
    chunking = model.model.chunk(ids)[0]
    boundaries, positions = count_boundaries([chunking]).sum(0)[0].tolist()
    assert (chunking.reason == BoundaryReason.GUARD).any()
    assert boundaries == int((chunking.reason == BoundaryReason.CAP).sum())
    assert positions == int(chunking.is_counted.sum())


def test_the_loss_pulls_p_towards_the_target(model):
    chunkings = model.train().model.chunk(clean_windows(2, seed=6))
    for share in (0.1, 0.9):
        counts = torch.tensor([[[share * 1000, 1000.0]] * 2] * 2)
        gradients = torch.autograd.grad(
            ratio_losses(chunkings, counts, TARGETS).sum(), [c.probability for c in chunkings], retain_graph=True
        )
        for chunking, gradient in zip(chunkings, gradients, strict=True):
            counted = gradient[chunking.is_counted]
            assert (counted < 0).all() if share < 0.3 else (counted > 0).all()
            assert not gradient[~chunking.is_counted].any()


def test_the_loss_is_one_and_flat_at_the_target(model):
    chunkings = model.train().model.chunk(clean_windows(2, seed=6))
    counts = torch.tensor([[[300.0, 1000.0], [500.0, 1000.0]]] * 2)
    losses = ratio_losses(chunkings, counts, TARGETS)
    assert losses.tolist() == pytest.approx([1.0, 1.0])
    gradients = torch.autograd.grad(losses.sum(), [chunking.probability for chunking in chunkings])
    assert all(gradient.abs().max() < 1e-7 for gradient in gradients)


def test_nothing_to_count_is_at_the_target():
    shares = boundary_shares(torch.tensor([[0.0, 0.0], [1.0, 4.0]]), TARGETS)
    assert shares.tolist() == pytest.approx([0.3, 0.25])


def test_mean_over_counted_counts_these_positions_only():
    probability = torch.tensor([[1.0, 0.2, 0.4], [1.0, 0.3, 0.9]])
    is_free = torch.tensor([[False, True, True], [False, False, False]])
    assert torch.allclose(mean_over_counted(probability, is_free, 0.3), torch.tensor([0.3, 0.3]))
    assert torch.allclose(mean_over_counted(probability, is_free, 0.7), torch.tensor([0.3, 0.7]))


def test_a_chunker_without_offsets_runs_each_encoder_once_in_a_step():
    model, runs = tiny_model(2, chunker="peak").train(), []
    model.model.stages[0].encoder.register_forward_hook(lambda *_: runs.append(1))
    shown, labels = masked(clean_windows(4, seed=4))
    output = model(shown, labels=labels)
    assert len(runs) == 1
    assert torch.equal(output.boundary_counts, count_boundaries(output.stages))
    assert torch.equal(output.loss, output.task_loss)
