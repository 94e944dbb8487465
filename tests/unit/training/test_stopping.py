"""Collapses and bad losses end a run after a checkpoint; signals are noted once and obeyed twice."""

import math
import os
import signal

import pytest

from hnet_ntv2.training.checkpoints import CheckpointKeeper
from hnet_ntv2.training.module import StepReport
from hnet_ntv2.training.stopping import CollapseGuard, SignalStop


def report(ratios=(0.3, 0.5), shares=(0.3, 0.5), problem=None) -> StepReport:
    return StepReport(loss=1.0, metrics={}, ratios=ratios, router_shares=shares, problem=problem)


@pytest.fixture
def keeper(tmp_path):
    return CheckpointKeeper(tmp_path, 10, 1, 4)


def test_a_ratio_must_stay_off_for_the_whole_patience(keeper):
    guard = CollapseGuard((0.3, 0.5), 3, 3.0, keeper)
    low = report(shares=(0.09, 0.5))
    assert [guard.problem_of(each) for each in (low, low, report(), low, low)] == [None] * 5
    assert "stage 1 has collapsed" in guard.problem_of(low)


@pytest.mark.parametrize(
    ("ratios", "shares", "is_off"),
    [
        ((0.3, 0.5), (0.11, 0.5), False),
        ((0.09, 0.5), (0.3, 0.5), True),
        ((0.3, 0.5), (0.91, 0.5), True),
        ((0.3, 0.16), (0.3, 0.5), True),
        ((0.3, 0.5), (math.nan, 0.5), False),
    ],
)
def test_under_a_third_or_over_three_times_the_target(keeper, ratios, shares, is_off):
    guard = CollapseGuard((0.3, 0.5), 1, 3.0, keeper)
    assert (guard.problem_of(report(ratios, shares)) is not None) == is_off


def test_patience_zero_never_stops_for_a_ratio(keeper):
    guard = CollapseGuard((0.3, 0.5), 0, 3.0, keeper)
    assert all(guard.problem_of(report(shares=(0.0, 0.0))) is None for _ in range(1000))


def test_the_count_survives_a_resume(keeper):
    guard, resumed = (CollapseGuard((0.3, 0.5), 3, 3.0, keeper) for _ in range(2))
    for _ in range(2):
        guard.problem_of(report(shares=(0.0, 0.5)))
    resumed.load_state_dict(guard.state_dict())
    assert resumed.problem_of(report(shares=(0.0, 0.5))) is not None


def test_the_first_signal_is_noted_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    stop = SignalStop()
    with stop.installed():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_signal_ends_the_process():
    child = os.fork()
    if child == 0:
        SignalStop().install()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
