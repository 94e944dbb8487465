"""Warm-up over a tenth of the steps, then a cosine from the peak to a sixth of it."""

import pytest
import torch

from hnet_ntv2.errors import ConfigError
from hnet_ntv2.training.schedule import build_scheduler, warmup_cosine


def test_the_default_run_goes_from_6e_4_to_1e_4():
    factor = warmup_cosine(50_000, 0.1, 6.0)
    assert factor(0) == pytest.approx(1 / 5_000)
    assert factor(4_999) == 1.0
    assert 6e-4 * factor(49_999) == pytest.approx(1e-4)
    assert factor(27_499) == pytest.approx((1 + 1 / 6) / 2)
    assert factor(60_000) == pytest.approx(1 / 6)


def test_it_rises_then_falls():
    factor = warmup_cosine(200, 0.1, 6.0)
    values = [factor(step) for step in range(200)]
    assert values[:20] == sorted(values[:20])
    assert values[19:] == sorted(values[19:], reverse=True)
    assert values[0] > 0


@pytest.mark.parametrize(("max_steps", "warmup"), [(1, 0.1), (3, 0.0), (4, 1.0)])
def test_tiny_runs_have_a_rate_for_every_step(max_steps, warmup):
    factor = warmup_cosine(max_steps, warmup, 6.0)
    assert all(0 < factor(step) <= 1 for step in range(max_steps + 1))


def test_groups_keep_their_multipliers():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": parameters[:1], "lr": 2.0}, {"params": parameters[1:], "lr": 0.5}])
    scheduler = build_scheduler(optimizer, 10, 0.5, 6.0)
    assert scheduler.get_last_lr() == pytest.approx([2.0 / 5, 0.5 / 5])
    for _ in range(9):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([2.0 / 6, 0.5 / 6])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0, 0.1, 6.0), "max_steps=0"), ((9, 1.5, 6.0), "warmup_fraction=1.5"), ((9, 0.1, 0.5), "final_divisor=0.5")],
)
def test_impossible_values_are_named(arguments, name):
    with pytest.raises(ConfigError, match=name):
        warmup_cosine(*arguments)
