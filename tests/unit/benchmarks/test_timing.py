"""Only optimiser steps are paid for: no start-up and no validation, whatever these cost."""

from types import SimpleNamespace

import pytest

from benchmarks.learning import timing
from benchmarks.learning.run import Workplace, _check_time
from benchmarks.learning.timing import training_clock
from hnet_ntv2.errors import DataError
from hnet_ntv2.training.module import PretrainingModule

MOMENTS = ("on_train_start", "on_validation_start", "on_validation_end", "on_train_end")


@pytest.mark.parametrize("start_up", [0, 100])
def test_start_up_and_validations_are_not_counted(monkeypatch, start_up):
    begin, first, after, second, again, end = (start_up + second for second in (10, 14, 20, 25, 40, 41))
    times = iter([begin, first, after, second, again, end])
    monkeypatch.setattr(timing, "clock", lambda accelerator: next(times))
    originals = [getattr(PretrainingModule, name) for name in MOMENTS]
    module = SimpleNamespace()
    with training_clock("cpu") as watch:
        PretrainingModule.on_train_start(module)
        for _ in range(2):
            PretrainingModule.on_validation_start(module)
            PretrainingModule.on_validation_end(module)
        PretrainingModule.on_train_end(module)
    assert watch.seconds == (14 - 10) + (25 - 20) + (41 - 40)
    assert [getattr(PretrainingModule, name) for name in MOMENTS] == originals


def test_a_validation_outside_training_starts_nothing(monkeypatch):
    monkeypatch.setattr(timing, "clock", lambda accelerator: 1.0)
    with training_clock("cpu") as watch:
        PretrainingModule.on_validation_start(SimpleNamespace())
    assert watch.seconds == 0


def test_the_source_cannot_train_on_for_a_time_that_is_not_known(tmp_path):
    with pytest.raises(DataError, match="the time of anchors_kept is not known"):
        _check_time(Workplace(tmp_path, SimpleNamespace(), SimpleNamespace()), {"cpu_seconds": None, "device": "x"})
