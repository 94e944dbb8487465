"""The plan of a warm start: steps, rates, shares and weights, and what is refused."""

import pytest

from hnet_ntv2.errors import ConfigError
from hnet_ntv2.training.phases import PhasePlan
from hnet_ntv2.training.settings import PhaseSettings, WarmStartSettings

RATES = {"base": 2.0, "trunk": 1.0}


def plan(**changes) -> PhasePlan:
    settings = {
        "align": PhaseSettings(steps=2, multipliers={"trunk": 0.0}, grid_share=(1.0,), ratio_weight=(0.0,)),
        "release": PhaseSettings(
            steps=3,
            multipliers={"trunk": 0.1},
            grid_share=(1.0, 0.0),
            ratio_weight=(0.0, 1.0),
            hidden_state_weight=(0.5,),
        ),
        "joint": PhaseSettings(multipliers={"trunk": 0.1}),
    }
    return PhasePlan.of(WarmStartSettings(**(settings | changes)), 10, RATES)


def test_every_step_has_the_shares_and_weights_of_its_phase():
    states = [plan().at(step) for step in range(10)]
    assert [state.name for state in states] == ["align"] * 2 + ["release"] * 3 + ["joint"] * 5
    assert [state.grid_share for state in states] == [1, 1, 1, 0.5, 0, 0, 0, 0, 0, 0]
    assert [state.weights["ratio"] for state in states] == [0, 0, 0, 0.5, 1, 1, 1, 1, 1, 1]
    assert [state.weights["hidden_state"] for state in states] == [0, 0, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0]


def test_rates_replace_those_of_the_optimizer():
    assert [plan().rate_factor(step, "trunk", RATES) for step in (0, 1, 2, 9)] == [0, 0, 0.1, 0.1]
    assert {plan().rate_factor(step, "base", RATES) for step in range(10)} == {1.0}


def test_a_phase_of_no_steps_is_skipped():
    skipped = plan(align=PhaseSettings(steps=0, grid_share=(1.0,)))
    assert skipped.at(0).name == "release"
    assert skipped.steps == (0, 3, 7)


def test_only_a_teacher_with_a_weight_is_used():
    assert plan().uses_teacher()
    assert not plan(release=PhaseSettings(steps=0, hidden_state_weight=(1.0,))).uses_teacher()
    assert not PhasePlan.single(5).uses_teacher()
    assert PhasePlan.single(5).cell_shares(4) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint": PhaseSettings(steps=5)}, r"joint.steps=5: leave it 0"),
        ({"align": PhaseSettings(steps=-1)}, r"align.steps=-1 must not be negative"),
        ({"align": PhaseSettings(grid_share=(1.5,))}, r"align.grid_share=\[1.5\] must be .* between 0 and 1"),
        ({"joint": PhaseSettings(ratio_weight=(0.0, 1.0, 2.0))}, r"joint.ratio_weight=.* must be one number or two"),
        (
            {"align": PhaseSettings(multipliers={"source": 0.1})},
            r"multipliers.source: no such group; there are base, tr",
        ),
        ({"align": PhaseSettings(multipliers={"trunk": -0.1})}, r"multipliers.trunk=-0.1: it must not be negative"),
    ],
)
def test_impossible_phases_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(**changes)


def test_a_run_shorter_than_its_phases_ends_inside_them_and_says_so(caplog):
    short = plan(align=PhaseSettings(steps=8, grid_share=(1.0,)))
    assert short.steps == (8, 3, 0)
    assert [short.at(step).name for step in (0, 7, 8, 9)] == ["align", "align", "release", "release"]
    assert "fill trainer.max_steps=10: the run ends before its chunks are free" in caplog.text


def test_the_table_tells_every_phase():
    table = plan().table()
    assert all(name in table for name in ("align", "release", "joint", "1 to 0", "trunk 0.1"))
