"""Parameter groups and the learning rate over the run."""

import pytest
import torch
from torch import nn

from hnet_ntv2.errors import ConfigError
from hnet_ntv2.training.optimizer import (
    describe_groups,
    parameter_groups,
    undecayed_names,
    warmup_cosine,
)

MULTIPLIERS = {"base": 2.45, "stage1": 1.34, "trunk": 0.95, "source": 0.95}


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.encoder = nn.Linear(8, 8)
        self.trunk = nn.ModuleList([nn.Linear(8, 8), nn.LayerNorm(8)])
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, 8))
        self.source_head = nn.Linear(8, 4, bias=False)


def group_of(name: str) -> str:
    return {"embedding": "base", "encoder": "base", "source_head": "source"}.get(name.split(".")[0], "trunk")


def test_every_parameter_is_in_exactly_one_group():
    model = Toy()
    groups = parameter_groups(model, group_of, 6e-4, 0.1, MULTIPLIERS)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in model.parameters())
    assert [group["name"] for group in groups] == [
        "base/decay",
        "base/no_decay",
        "trunk/decay",
        "trunk/no_decay",
        "source/decay",
    ]


def test_only_matrices_decay():
    assert undecayed_names(Toy()) == {
        "embedding.weight",
        "encoder.bias",
        "trunk.0.bias",
        "trunk.1.weight",
        "trunk.1.bias",
    } | {"cls_embedding"}
    for group in parameter_groups(Toy(), group_of, 6e-4, 0.1, MULTIPLIERS):
        assert group["weight_decay"] == (0.1 if group["name"].endswith("/decay") else 0.0)


def test_multipliers_act_on_the_step():
    model = Toy()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, group_of, 1e-3, 0.0, MULTIPLIERS), betas=(0.9, 0.95), eps=1e-12
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = (before[name] - parameter.detach()).abs()
        assert torch.allclose(moved, torch.full_like(moved, 1e-3 * MULTIPLIERS[group_of(name)]), rtol=1e-3), name


def test_a_group_without_a_multiplier_is_named():
    with pytest.raises(ConfigError, match="lacks the model's group"):
        parameter_groups(Toy(), lambda name: "stage3", 6e-4, 0.1, MULTIPLIERS)


def test_the_table_names_every_group():
    table = describe_groups(parameter_groups(Toy(), group_of, 6e-4, 0.1, MULTIPLIERS))
    assert "base/decay" in table
    assert "0.00147" in table
    assert "0.00057" in table


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
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(10, 0.5, 6.0))
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
