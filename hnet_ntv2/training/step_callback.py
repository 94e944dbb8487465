"""A Lightning callback that looks at finished optimiser steps, not at micro-batches."""

from typing import Any

import lightning as L

from .module import PretrainingModule, StepReport


class StepCallback(L.Callback):
    """Calls ``on_step_end`` once per optimiser step, after the step's report is there."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Pass a finished step on; micro-batches inside an accumulation have no report."""
        assert isinstance(pl_module, PretrainingModule)
        if pl_module.report is not None:
            self.on_step_end(trainer, pl_module, pl_module.report)

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """A step is finished; ``trainer.global_step`` counts it."""
