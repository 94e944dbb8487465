"""What training alone costs: seconds of optimiser steps, without start-up, validations and what comes after."""

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
        """Run from now on."""
        self._begun = clock(self.accelerator)

    def stop(self) -> None:
        """Stand still, if it runs."""
        if self._begun is not None:
            self.seconds += clock(self.accelerator) - self._begun
        self._begun = None


@contextmanager
def training_clock(accelerator: str) -> Iterator[TrainingClock]:
    """A clock that runs from the first step to the end of any training in this block, and stands during validations.

    What a process does once (imports, the model, its calibration, the first look at the data) differs between arms, and
    no figure of it may be taken off or added per validation.
    """
    watch = TrainingClock(accelerator)
    moments = {
        "on_train_start": watch.start,
        "on_validation_start": watch.stop,
        "on_validation_end": watch.start,
        "on_train_end": watch.stop,
    }
    with ExitStack() as stack:
        for name, act in moments.items():
            original = getattr(PretrainingModule, name)

            def hook(module, original=original, act=act):
                original(module)
                act()

            stack.enter_context(patch.object(PretrainingModule, name, hook))
        yield watch
