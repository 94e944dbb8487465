"""One optimiser step, from the loss of each micro-batch to the report over all ranks; and one validation pass."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import lightning as L
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from .. import measuring
from ..errors import ConfigError
from ..measuring import Sums, ValidationRun
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..parameter_names import parameter_group
from . import optimizer as optimization
from .devices import OUT_OF_MEMORY_ADVICE
from .phases import PhasePlan
from .settings import PretrainSettings
from .teachers import HiddenStateTeacher

logger = logging.getLogger(__name__)


Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step measured, over all micro-batches and ranks.

    Attributes:
        loss: Task loss plus weighted ratio loss of the global batch.
        metrics: Values for the log, by name.
        ratios: Achieved ratio per stage.
        router_shares: The routers' own share of boundaries per stage, before cap and guard.
        problem: Why the update was not applied; None if it was.
        stop_signal: Number of the signal that some rank received, 0 for none.
    """

    loss: float
    metrics: dict[str, float]
    ratios: tuple[float, ...]
    router_shares: tuple[float, ...]
    problem: str | None = None
    stop_signal: int = 0


@dataclass
class _Step:
    """What the micro-batches of the step in progress have added up to."""

    number: int = 0
    sums: Sums | None = None
    gradient_norms: dict[str, float] = field(default_factory=dict)
    router_norms: dict[str, torch.Tensor] = field(default_factory=dict)
    problem: str | None = None


class PretrainingModule(L.LightningModule):
    """Trains ``HNetNTV2ForMaskedLM``.

    The task loss of a micro-batch is its weighted sum of cross-entropies over (mask rate x bases x windows of the
    micro-batch), whatever the number of targets; the ratio loss is a mean over windows, each with its own share F. So
    the mean over micro-batches and ranks is exactly the loss of the global batch.

    Args:
        model: The model.
        settings: The whole run.
        phases: The warm start; None trains in one phase.
        teacher: What the source model teaches besides, with its weight in ``phases``.
        identity: What a run must have in common with the checkpoints it resumes from.
    """

    def __init__(
        self,
        model: HNetNTV2ForMaskedLM,
        settings: PretrainSettings,
        phases: PhasePlan | None = None,
        teacher: HiddenStateTeacher | None = None,
        identity: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.model = model
        self.settings = settings
        self.max_steps = settings.trainer.max_steps
        self.gradient_clip = settings.trainer.gradient_clip
        # Forward passes must not move them: optimizer_step does so once, by the global counts.
        self.model.moves_offsets = False
        self.phases = phases or PhasePlan.single(self.max_steps)
        self.teacher = teacher
        self.identity = identity or {}
        self.report: StepReport | None = None
        self.validation_report: dict[str, float] = {}
        self.stop_signal = 0
        self._without_decay = optimization.undecayed_names(
            model
        )  # now: FSDP flattens parameters, which decay is chosen by
        self._step = _Step()
        self._phase: str | None = None
        self._validation: ValidationRun | None = None

    @property
    def num_stages(self) -> int:
        return self.model.config.num_stages

    def configure_optimizers(self) -> Any:
        """AdamW with its groups, and the schedule stepped once per optimiser step."""
        settings, schedule = self.settings.optimizer, self.settings.scheduler
        optimizer = AdamW(self.optimizer_groups(), betas=cast(Any, settings.betas), eps=settings.eps)
        common = optimization.warmup_cosine(self.max_steps, schedule.warmup_fraction, schedule.final_divisor)

        def factor_of(group: str) -> Callable[[int], float]:
            return lambda step: common(step) * self.phases.rate_factor(step, group, settings.multipliers)

        scheduler = LambdaLR(optimizer, [factor_of(group["group"]) for group in optimizer.param_groups])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        settings = self.settings.optimizer
        rates = (settings.learning_rate, settings.weight_decay, settings.multipliers)
        return optimization.parameter_groups(self.model, parameter_group, *rates, self._without_decay)

    # ---- one micro-batch

    def forward_batch(self, batch: Batch, **options: Any) -> Any:
        """Run the model on a batch of the data module; forced grid and anchors are passed through where present."""
        extras = {name: batch[name] for name in ("attention_mask", "on_grid", "anchors") if name in batch}
        return self.model(batch["input_ids"], **{**extras, **options})

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one micro-batch; its sums are added to the step's."""
        self.report = None  # callbacks take a report for the end of a step
        self._step.number = self._finished_steps
        self._log_phase()
        batch = widened(batch)
        data = self.settings.data
        try:
            output = self.forward_batch(
                batch,
                labels=batch["labels"],
                loss_weights=batch["loss_weights"],
                loss_denominator=data.mask.rate * data.seq_length * len(batch["input_ids"]),
                only_targets=True,
                output_hidden_states=self._is_taught,
            )
        except torch.OutOfMemoryError as error:
            raise ConfigError(f"out of memory: {OUT_OF_MEMORY_ADVICE}") from error
        output.loss, parts = self._total_loss(output, batch)
        # First micro-batch only: it costs a backward pass per loss and stage.
        if self._step.sums is None and self._measures_routers():
            self._step.router_norms = self._router_gradient_norms(output)
        self._step.sums = measuring.add_sums(self._step.sums, {**self._training_sums(output, batch), **parts})
        return output.loss

    def _log_phase(self) -> None:
        name = self.phases.at(self._step.number).name
        if self.phases.is_warm_start and name != self._phase:
            logger.info("step %d: phase %s begins", self._step.number + 1, name)
            self._phase = name

    @property
    def _finished_steps(self) -> int:
        return 0 if self._trainer is None else self.trainer.global_step

    @property
    def _is_taught(self) -> bool:
        return self.teacher is not None and self.phases.at(self._finished_steps).weights["hidden_state"] > 0

    def _total_loss(self, output: Any, batch: Batch) -> tuple[torch.Tensor, Sums]:
        """Task, ratio and teacher's losses with the weights of the current step; and the teacher's for the log."""
        weights = self.phases.at(self._finished_steps).weights
        loss = output.task_loss + weights["ratio"] * self.model.config.ratio_loss_weight * output.ratio_loss
        if self.teacher is None or not self._is_taught:
            return loss, {}
        value = self.teacher.loss(output, batch)
        return loss + weights["hidden_state"] * value, {"teacher_hidden_state": value.detach().double()}

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Backpropagate.

        Raises:
            ConfigError: Memory runs out; it names the settings that need less.
        """
        try:
            super().backward(loss, *args, **kwargs)
        except torch.OutOfMemoryError as error:
            raise ConfigError(f"out of memory in the backward pass: {OUT_OF_MEMORY_ADVICE}") from error

    def _training_sums(self, output: Any, batch: Batch) -> Sums:
        # float64: many micro-batches and ranks are added up
        labels, is_shown_masked = batch["labels"], batch["input_ids"] == self.model.config.mask_token_id
        return {
            "micro_batches": torch.ones((), dtype=torch.float64, device=output.loss.device),
            "loss": output.loss.detach().double(),
            "task_loss": output.task_loss.detach().double(),
            **{f"ratio_loss{i}": loss.detach().double() for i, loss in enumerate(output.ratio_losses, start=1)},
            **measuring.target_sums(output.logits, labels, torch.ones_like(is_shown_masked), "targets"),
            **measuring.target_sums(output.logits, labels, is_shown_masked, "masked"),
            **measuring.chunk_sums(output.stages),
            **dict(zip(sum(self._count_names(), ()), output.boundary_counts.double().sum(0).flatten(), strict=True)),
        }

    # ---- one optimiser step

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure the gradients (unscaled, before clipping) per learning-rate group."""
        squares = optimization.squared_gradient_norms(self._groups_of(optimizer))
        self._step.gradient_norms = optimization.gradient_norms(squares, self._sum_over_shards)

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip the norm of the whole gradient, whether it is replicated or sharded.

        A gradient that is not finite is dropped, so that the weights stay those of the last good step (fp16 loss
        scaling does that by itself, by design now and then).
        """
        total = self._step.gradient_norms["total"]
        if not math.isfinite(total) and not self._scales_loss:
            self._step.problem = f"the gradient's norm became {total}"
            optimizer.zero_grad(set_to_none=True)
        elif self.gradient_clip is not None and total > self.gradient_clip:
            optimization.scale_gradients(self._groups_of(optimizer), self.gradient_clip / (total + 1e-6))

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Update the weights, sum the step's measurements over all ranks, and move the routers' offsets by them."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        assert self._step.sums is not None
        # Made on the device: copying a number there makes the GPU wait.
        stop_signal = torch.full((), float(self.stop_signal), dtype=torch.float64, device=self.device)
        sums = measuring.reduce_sums({**self._step.sums, "stop_signal": stop_signal}, self._reduce)
        self.model.move_offsets(torch.tensor([[sums[name] for name in row] for row in self._count_names()]))
        self.report = self._make_report(sums, optimizer)
        self._step = _Step()

    def _count_names(self) -> list[tuple[str, str]]:
        """Names of the counts that offsets move by, per stage: boundaries and positions.

        They are those of sequence without masks, unless the chunker has no offsets.
        """
        stages = range(1, self.num_stages + 1)
        return [(f"stage{i}_mask_free_boundaries", f"stage{i}_mask_free_positions") for i in stages]

    def _make_report(self, sums: Mapping[str, float], optimizer: Any) -> StepReport:
        stages, count = range(1, self.num_stages + 1), sums["micro_batches"]
        counted = self._count_names() if self.model.config.has_offsets else []
        metrics = {
            "loss": sums["loss"] / count,
            "task_loss": sums["task_loss"] / count,
            **{f"stage{i}/ratio_loss": sums[f"ratio_loss{i}"] / count for i in stages},
            **measuring.target_metrics(sums, "masked"),
            **measuring.target_metrics(sums, "targets", "_all_targets"),
            **measuring.stage_metrics(sums, self.num_stages),
            **{f"gradient_norm/{name}": norm for name, norm in self._step.gradient_norms.items()},
            **{name: float(norm) for name, norm in self._step.router_norms.items()},
            **{f"learning_rate/{group['group']}": group["lr"] for group in optimizer.param_groups},
            **{name: sums[name] / count for name in sums if name.startswith("teacher_")},
            **self.phases.at(self._step.number).metrics(),
            **{
                f"stage{i}/mask_free_share": sums[boundaries] / sums[positions] if sums[positions] else math.nan
                for i, (boundaries, positions) in enumerate(counted, start=1)
            },
            "bases": sums["bases"],
        }
        loss = metrics["loss"]
        problem = self._step.problem if math.isfinite(loss) else f"the loss became {loss}"
        return StepReport(
            loss=loss,
            metrics=metrics,
            ratios=tuple(metrics[f"stage{i}/ratio"] for i in stages),
            router_shares=tuple(metrics[f"stage{i}/router_share"] for i in stages),
            problem=problem,
            stop_signal=int(sums["stop_signal"]),
        )

    # ---- validation

    def on_validation_epoch_start(self) -> None:
        """Begin a pass over the validation windows."""
        settings = self.settings.validation
        self._validation = ValidationRun(self.model.config, settings.anchors, settings.strands)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch of validation windows."""
        assert self._validation is not None
        self._validation.add(widened(batch), self.forward_batch)

    def on_validation_epoch_end(self) -> None:
        """Make the report of the pass from the sums of all ranks."""
        assert self._validation is not None
        self.validation_report = self._validation.report(self._reduce)
        self._validation = None

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the settings that a resumed run is compared with."""
        checkpoint["run"] = self.identity

    # ---- helpers

    @property
    def _scales_loss(self) -> bool:
        return self._trainer is not None and str(self.trainer.precision) == "16-mixed"

    @property
    def _is_sharded(self) -> bool:
        return self._trainer is not None and bool(getattr(self.trainer.strategy, "shards_parameters", False))

    def _groups_of(self, optimizer: Any) -> dict[str, list[nn.Parameter]]:
        groups: dict[str, list[nn.Parameter]] = {}
        for group in optimizer.param_groups:
            groups.setdefault(group["group"], []).extend(group["params"])
        return groups

    def _measures_routers(self) -> bool:
        every = self.settings.callbacks.router_gradients_every
        return every > 0 and not self._is_sharded and self.trainer.global_step % every == 0

    def _router_gradient_norms(self, output: Any) -> dict[str, torch.Tensor]:
        """Norms of the task's and the ratio loss's gradients at each router, of this rank's first micro-batch."""
        losses = {"task": output.task_loss}
        if self.model.config.has_offsets:  # no other chunker's ratio loss has a gradient
            weight = self.phases.at(self._finished_steps).weights["ratio"] * self.model.config.ratio_loss_weight
            losses["ratio"] = weight * output.ratio_loss
        return {
            f"stage{stage}/router_gradient_{name}": optimization.gradient_norm_of_loss(loss, list(router.parameters()))
            for stage, router in enumerate(self.model.model.routers, start=1)
            for name, loss in losses.items()
        }

    def _reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._trainer is None or self.trainer.world_size == 1:
            return tensor
        return cast(torch.Tensor, self.trainer.strategy.reduce(tensor, reduce_op="sum"))

    def _sum_over_shards(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._reduce(tensor) if self._is_sharded else tensor


def widened(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch with ids and labels in int64. The loader sends them as bytes, an eighth of the transfer."""
    return {name: value.long() if name.endswith(("input_ids", "labels")) else value for name, value in batch.items()}


class StepCallback(L.Callback):
    """Calls ``on_step_end`` once per optimiser step, with the step's report; Lightning itself counts micro-batches."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: PretrainingModule, *_: Any) -> None:
        """Call ``on_step_end`` after the last micro-batch of a step; the others have no report."""
        if pl_module.report is not None:
            self.on_step_end(trainer, pl_module, pl_module.report)

    def on_step_end(self, trainer: L.Trainer, module: PretrainingModule, report: StepReport) -> None:
        """Called after a step; ``trainer.global_step`` includes it."""
