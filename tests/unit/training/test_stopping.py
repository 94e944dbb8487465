"""Collapses and bad losses end a run after a checkpoint; signals are noted once and obeyed twice."""

import math
import os
import signal
from unittest.mock import create_autospec

import lightning as L
import pytest

from hnet_ntv2.errors import TrainingStopped
from hnet_ntv2.training.checkpoints import CheckpointKeeper
from hnet_ntv2.training.module import PretrainingModule, StepReport
from hnet_ntv2.training.stopping import CollapseGuard, LoaderWatch, SignalStop


def report(ratios=(0.3, 0.5), shares=(0.3, 0.5), problem=None) -> StepReport:
    return StepReport(loss=1.0, metrics={}, ratios=ratios, router_shares=shares, problem=problem)


@pytest.fixture
def keeper(tmp_path):
    return CheckpointKeeper(tmp_path, 10, 1, 4)


def test_a_ratio_must_stay_off_for_the_whole_patience(keeper):
    guard = CollapseGuard((0.3, 0.5), 3, keeper=keeper)
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
    guard = CollapseGuard((0.3, 0.5), 1, keeper=keeper)
    assert (guard.problem_of(report(ratios, shares)) is not None) == is_off


def test_patience_zero_never_stops_for_a_ratio(keeper):
    guard = CollapseGuard((0.3, 0.5), 0, keeper=keeper)
    assert all(guard.problem_of(report(shares=(0.0, 0.0))) is None for _ in range(1000))


def test_the_count_survives_a_resume(keeper):
    guard, resumed = (CollapseGuard((0.3, 0.5), 3, keeper=keeper) for _ in range(2))
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


def test_the_loss_of_a_loader_is_noted_where_it_is_harmless_and_told_in_one_line(keeper):
    torch_says = "DataLoader worker (pid 12) is killed by signal: Killed. "

    def torch_handler(number, frame):
        raise RuntimeError(torch_says)

    before = signal.signal(signal.SIGCHLD, torch_handler)
    try:
        watch = LoaderWatch(keeper)
        with pytest.raises(
            TrainingStopped, match=r"^a loader process.*worker \(pid 12\) is killed by signal: Killed\)"
        ):
            run_with_lost_loader(watch)
        assert watch.loss == torch_says
        assert signal.getsignal(signal.SIGCHLD) is torch_handler
    finally:
        signal.signal(signal.SIGCHLD, before)


def run_with_lost_loader(watch: LoaderWatch) -> None:
    with watch.installed():
        watch.on_train_start(
            create_autospec(L.Trainer, instance=True), create_autospec(PretrainingModule, instance=True)
        )
        signal.raise_signal(signal.SIGCHLD)  # in the middle of a step, which is not disturbed
        raise RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")


@pytest.mark.parametrize("broken", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_socket_that_breaks_off_before_the_loader_is_gone_is_the_same_loss(keeper, monkeypatch, broken):
    """A loader can be killed while the main process asks it for a tensor."""

    def torch_handler(number, frame):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")

    saved = []
    monkeypatch.setattr(keeper, "save_between_steps", lambda trainer: saved.append(trainer) or "here")
    before = signal.signal(signal.SIGCHLD, torch_handler), signal.getsignal(signal.SIGALRM)
    try:
        watch = LoaderWatch(keeper)
        with pytest.raises(TrainingStopped, match=r"pid 12\) is killed by signal: Killed\); the state is in here"):
            run_with_broken_socket(watch, broken)
        assert len(saved) == 1
    finally:
        signal.signal(signal.SIGCHLD, before[0])
        signal.signal(signal.SIGALRM, before[1])


def run_with_broken_socket(watch: LoaderWatch, broken: Exception) -> None:
    trainer, module = create_autospec(L.Trainer, instance=True), create_autospec(PretrainingModule, instance=True)
    trainer.world_size = 1
    with watch.installed():
        watch.on_train_start(trainer, module)
        # The kernel tells of the loader's end a moment after its socket has closed.
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGCHLD))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        watch.on_exception(trainer, module, broken)
        raise broken


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Caught RuntimeError in DataLoader worker process 0."),
        ValueError("x"),
        ConnectionResetError(104, "of a logger's server"),
    ],
)
def test_other_errors_stay_what_they_are(keeper, error):
    with pytest.raises(type(error)) as caught, LoaderWatch(keeper).installed():
        raise error
    assert caught.value is error
