"""Router calibration on sequence: the wanted share of boundaries, on held-out sequence too."""

import pytest
import torch

from hnet_ntv2.conversion.calibrate import _threshold, boundary_rates, calibrate_routers
from hnet_ntv2.errors import DataError
from tests.builders import ids, random_dna, tiny_model


def boundary_shares(model, input_ids):
    return [float((s.is_boundary & s.is_free).sum() / s.is_free.sum()) for s in model.model.chunk(input_ids)]


@pytest.mark.parametrize("seed", range(5))
def test_rates_on_held_out_sequence_are_near_their_targets(seed):
    model = tiny_model(seed=seed, initializer_range=0.5, d_model=64, chunker="learned")
    generator = torch.Generator().manual_seed(seed)
    calibrate_routers(model.model, [random_dna(1024, generator, 2) for _ in range(3)])
    achieved = boundary_shares(model, random_dna(4096, generator, 2))
    for share, target in zip(achieved, (0.3, 0.5), strict=True):
        assert abs(share / target - 1) < 0.1


def test_the_caps_boundaries_count(rng):
    """With a short cap the router's own share has to be far below the target."""
    model = tiny_model(initializer_range=0.5, max_chunk_length=6, target_ratio_stage1=0.5, chunker="learned")
    sequence = [random_dna(1024, rng, 2)]
    calibrate_routers(model.model, sequence)
    rates = boundary_rates(model.model, sequence)
    assert rates.router[1] < 0.4
    assert rates.achieved[1] == pytest.approx(0.5, rel=0.05)


def test_threshold_lies_midway_between_attained_values():
    values = torch.tensor([0.1, 0.2, 0.2, 0.4, 0.8])
    assert _threshold(values, 0.4) == pytest.approx(0.3)  # 0.4 and 0.8 lie above
    assert _threshold(values, 0.2) == pytest.approx(0.6)


def test_calibration_keeps_the_mode_and_refuses_sequences_without_a_free_position():
    model = tiny_model(chunker="learned").train()
    calibrate_routers(model.model, [random_dna(200, torch.Generator().manual_seed(0))])
    assert model.training
    with pytest.raises(DataError, match="stage 1"):
        calibrate_routers(model.model, [ids("A")])
