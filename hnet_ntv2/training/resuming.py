"""What a resumed run makes up for before it goes on."""

import lightning as L

from .module import PretrainingModule
from .progress import MetricLog
from .step_callback import StepCallback


class MissedValidation(StepCallback):
    """Validates before the first step where the step of the resumed checkpoint asks for a validation.

    Checkpoints are saved before the validation of their step, so none of them knows its outcome: the row of the log,
    the best value and the link to the best checkpoint. Validating again gives all of them, however far the first
    attempt came. A run that had finished its last step ends after that.

    Args:
        log: Knows which steps are validated.
    """

    def __init__(self, log: MetricLog):
        self.metric_log = log

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate, as Lightning does between steps. It must come after the callbacks that take the outcome."""
        assert isinstance(pl_module, PretrainingModule)
        step = trainer.global_step
        if step and self.metric_log.is_due(step, pl_module.max_steps):
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False  # from its first batch, whatever the checkpoint says of an earlier validation
            trainer.validating = True
            loop.run()
            trainer.training = True
        if step == pl_module.max_steps:
            trainer.should_stop = True
