"""Time training alone: seconds of optimiser steps, without start-up, validations and what comes after."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from hnet_ntv2.training.module import PretrainingModule

from .setup import clock


class TrainingClock:
    """Adds up seconds while it runs.

    Args:
        accelerator: "cpu" or "cuda"; see ``clock``.
    """

    def __init__(self, accelerator: str):
        self.accelerator = accelerator
        self.seconds = 0.0
        self._begun: float | None = None

    def start(self) -> None:
        """Start counting."""
        self._begun = clock(self.accelerator)

    def stop(self) -> None:
        """Stop counting; does nothing if the clock stands."""
        if self._begun is not None:
            self.seconds += clock(self.accelerator) - self._begun
        self._begun = None


@contextmanager
def training_clock(accelerator: str) -> Iterator[TrainingClock]:
    """A clock that runs from the first step to the end of any training in this block, and stops during validations.

    One-off work (imports, building the model, calibration, the first read of the data) differs between arms and would
    distort a comparison of short runs.
    """
    watch = TrainingClock(accelerator)
    moments = {
        "on_train_start": watch.start,
        "on_validation_start": watch.stop,
        "on_validation_end": watch.start,
        "on_train_end": watch.stop,
    }
    # Patched, not a callback: ``pretrain`` takes settings only, and a run is trained exactly as a user's.
    with ExitStack() as stack:
        for name, act in moments.items():
            original = getattr(PretrainingModule, name)

            def hook(module, original=original, act=act):  # defaults: a closure would see the loop's last values
                original(module)
                act()

            stack.enter_context(patch.object(PretrainingModule, name, hook))
        yield watch
