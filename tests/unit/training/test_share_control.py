"""The routers' offsets keep the shares of boundaries where they should be while the weights change."""

import pytest
import torch

from hnet_ntv2.conversion.calibrate import calibrate_routers
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.training.metrics import reduced, share_sums
from hnet_ntv2.training.share_control import ShareControl, _offset_step, windows_every
from tests.builders import random_dna, tiny_model

LENGTH, TARGETS = 384, (0.3, 0.5)


@pytest.fixture
def model() -> HNetNTV2ForMaskedLM:
    model = tiny_model(2, spread=0.05, router_offset_rate=0.25, d_model=64, initializer_range=0.5)
    calibrate_routers(model.model, [clean_windows(8, seed=0)])
    return model


def clean_windows(number: int, seed: int) -> torch.Tensor:
    return random_dna(LENGTH, torch.Generator().manual_seed(seed), number)


def masked_batch(ids: torch.Tensor, first_index: int = 0) -> dict[str, torch.Tensor]:
    labels = torch.full_like(ids, -100)
    labels[:, 30:60] = ids[:, 30:60]
    shown = ids.masked_fill(labels != -100, 3)
    return {"input_ids": shown, "labels": labels, "window_index": first_index + torch.arange(len(ids))}


def alone(tensor):
    return tensor


def shares(model, ids) -> list[float]:
    sums = reduced(share_sums(model.model.chunk(ids)), alone)
    return [sums[f"stage{i}_kept"] / sums[f"stage{i}_counted"] for i in (1, 2)]


@torch.no_grad()
def change(model, seed: int = 7) -> None:
    """As an optimiser step does, but far more than one."""
    generator = torch.Generator().manual_seed(seed)
    for router in model.model.routers:
        for weight in (router.query.weight, router.key.weight):
            weight.add_(0.06 * torch.randn(weight.shape, generator=generator))


def test_what_a_change_of_weights_did_is_undone_and_the_gap_to_the_target_narrows(model):
    for router, offset in zip(model.model.routers, (0.03, -0.05), strict=True):
        router.beta.add_(offset)
    ids = clean_windows(16, seed=1)
    before = shares(model, ids)
    control = ShareControl(model)
    control.look(masked_batch(ids), model.model.chunk)
    change(model)
    changed = shares(model, ids)
    control.settle(model.model.chunk, alone)
    for target, share, moved, settled in zip(TARGETS, before, changed, shares(model, ids), strict=True):
        goal = share + 0.25 * (target - share)
        assert abs(moved - goal) > 0.03
        assert abs(settled - goal) < 0.01


def test_a_rate_of_zero_holds_the_offsets(model):
    model.config.router_offset_rate = 0.0
    ids = clean_windows(2, seed=3)
    offsets = [float(router.beta) for router in model.model.routers]
    control = ShareControl(model)
    control.look(masked_batch(ids), model.model.chunk)
    change(model)
    control.settle(model.model.chunk, alone)
    assert [float(router.beta) for router in model.model.routers] == offsets


def test_counted_is_the_sequence_without_masks_and_grid(model):
    ids = clean_windows(4, seed=4)
    control = ShareControl(model)
    batch = masked_batch(ids)
    control.look({**batch, "on_grid": torch.ones_like(ids, dtype=torch.bool)}, model.model.chunk)
    expected = reduced(share_sums(model.model.chunk(ids)), alone)
    found = control.settle(model.model.chunk, alone)
    assert expected == {name: found[name] for name in expected}
    assert expected != reduced(share_sums(model.model.chunk(batch["input_ids"])), alone)


def test_reported_is_the_share_before_the_offset_moves(model):
    model.config.router_offset_rate = 1.0
    ids, control = clean_windows(4, seed=4), ShareControl(model)
    control.look(masked_batch(ids), model.model.chunk)
    change(model, seed=8)
    drifted = shares(model, ids)[0]
    found = control.settle(model.model.chunk, alone)
    assert found["stage1_found"] == pytest.approx(drifted)
    assert abs(shares(model, ids)[0] - drifted) > 0.005


@pytest.mark.parametrize("sizes", [(8,), (3, 1, 4), (1,) * 8])
def test_every_third_window_counts_however_the_step_is_cut_into_micro_batches(model, sizes):
    ids, control, first = clean_windows(8, seed=5), ShareControl(model, every=3), 0
    for size in sizes:
        control.look(masked_batch(ids[first : first + size], first), model.model.chunk)
        first += size
    expected = reduced(share_sums(model.model.chunk(ids[::3])), alone)
    found = control.settle(model.model.chunk, alone)
    assert expected == {name: found[name] for name in expected}


def test_ranks_that_hold_parts_of_the_model_run_it_together(model):
    """Two ranks with micro-batches of two: what one counts, the others run without counting."""

    def rows_run(first_index: int, size: int, ranks: int) -> list[int]:
        rows: list[int] = []

        def cut(ids):
            rows.append(len(ids))
            return model.model.chunk(ids)

        control = ShareControl(model, every=6)
        control.look(masked_batch(clean_windows(size, seed=1), first_index), cut, ranks)
        return rows

    assert [rows_run(first, 2, ranks=2) for first in (0, 2, 4, 6, 8, 10, 12, 14)] == [[1]] * 4 + [[]] * 2 + [[1]] * 2
    assert [rows_run(first, 2, ranks=1) for first in (0, 2, 4, 6)] == [[1], [], [], [1]]


def test_nothing_moves_where_nothing_is_counted(model):
    offsets = [float(router.beta) for router in model.model.routers]
    control = ShareControl(model, every=100)
    control.look(masked_batch(clean_windows(2, seed=6), first_index=1), model.model.chunk)
    change(model)
    control.settle(model.model.chunk, alone)
    assert [float(router.beta) for router in model.model.routers] == offsets


def test_a_step_moves_an_offset_no_farther_than_its_density_was_measured(model):
    ids = clean_windows(4, seed=8)
    first = model.model.routers[0]
    offset = float(first.beta)
    control = ShareControl(model)
    control.look(masked_batch(ids), model.model.chunk)
    with torch.no_grad():
        first.key.weight.neg_()  # neighbours that were alike are now opposites
    control.settle(model.model.chunk, alone)
    assert abs(float(first.beta) - offset) == pytest.approx(0.15)  # three times 0.05


def test_offsets_stay_within_bounds(model):
    model.model.routers[0].beta.fill_(-0.99)
    ids = clean_windows(4, seed=9)
    for _ in range(3):
        control = ShareControl(model)
        control.look(masked_batch(ids), model.model.chunk)
        control.settle(model.model.chunk, alone)
    assert -1.0 <= float(model.model.routers[0].beta) <= 1.0


def test_so_many_windows_that_a_few_thousand_bases_are_counted():
    assert windows_every(10, 768) == 2
    assert windows_every(2, 512) == 1
    assert windows_every(128, 12_000) == 375


@pytest.mark.parametrize(
    ("wanted", "bins", "expected"),
    [
        (3, {99: 2, 98: 4}, 1.25 * 0.0005),  # two at once, then a quarter of the next bin
        (-3, {100: 1, 110: 4}, -10.5 * 0.0005),
        (5, {99: 2}, 0.05),  # more than there are near the threshold
        (-5, {}, -0.05),
    ],
)
def test_an_offset_moves_past_as_many_probabilities_as_are_wanted(wanted, bins, expected):
    counts = [float(bins.get(place, 0)) for place in range(200)]
    assert _offset_step(float(wanted), counts) == pytest.approx(expected)


def test_probabilities_that_pile_up_at_the_threshold_are_not_overshot():
    """A density measured around the threshold would move the offset many times too far."""
    counts = [0.0] * 200
    counts[100] = 500.0
    assert _offset_step(-50.0, counts) == pytest.approx(-0.1 * 0.0005)
