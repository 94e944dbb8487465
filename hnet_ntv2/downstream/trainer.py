"""transformers' Trainer for a sequence classifier: batches of bases, learning rates by group, the ratio loss."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainingArguments
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import EvalPrediction

from ..errors import TrainingStopped
from ..inference.windows import DEFAULT_BATCH_BASES
from ..parameter_names import GRAFTED_GROUPS, parameter_group
from ..ratio_control import count_boundaries, move_offsets, ratio_losses
from ..shapes import Tensor
from ..training.optimizer import parameter_groups
from ..vocabulary import reverse_complement
from .checkpoints import epochs_if_stopped, last_checkpoint
from .classifier import model_inputs
from .finetune_output import TENSORBOARD, epoch_rows
from .finetune_settings import FinetuneSettings

_ADAPTED = "base_model.model."  # what peft puts in front of names
# Linear layers inside blocks, of the trunk and of the local layers; routers lie outside, and adapters hold no offsets.
_ADAPTED_MODULES = (
    r".*\.(layer|blocks)\.\d+\.(.*\.)?"
    r"(query|key|value|dense|query_key_value|attention_output|mlp_input|mlp_output)"
)


class Rows(Dataset):
    """Encoded sequences with targets; ``input_ids`` are bases, of which ``Collator`` makes what the model reads."""

    def __init__(self, bases: list[NDArray[np.uint8]], targets: NDArray):
        self.bases, self.targets = bases, targets

    def __len__(self) -> int:
        return len(self.bases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.bases[index], "labels": self.targets[index]}

    @property
    def longest(self) -> int:
        return max(map(len, self.bases))


@dataclass
class Collator:
    """Pad rows to the longest of a batch; in training half of them may be reverse-complemented.

    Attributes:
        config: Of the model.
        flips: Draw the strand of each row, from torch's global generator, whose state a checkpoint holds.
    """

    config: Any
    flips: bool = False

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows = [example["input_ids"] for example in examples]
        if self.flips:
            is_flipped = torch.rand(len(rows)) < 0.5
            rows = [reverse_complement(row) if flip else row for row, flip in zip(rows, is_flipped, strict=True)]
        labels = torch.from_numpy(np.stack([example["labels"] for example in examples]))
        return model_inputs(self.config, rows, torch.device("cpu")) | {"labels": labels}


def group_of(name: str) -> str:
    """Learning-rate group of a classifier's parameter: "head", "trunk" (what comes from NTv2) or "outer"."""
    name = name.removeprefix(_ADAPTED)
    if name.startswith("classifier."):
        return "head"
    if name.startswith("esm.") or parameter_group(name) in GRAFTED_GROUPS:
        return "trunk"
    return "outer"


class _OneDevice(TrainingArguments):
    """Trainer would spread a process over all its GPUs, by replicas whose routers' offsets are lost."""

    @property
    def n_gpu(self) -> int:
        return min(super().n_gpu, 1)


class _Bar(ProgressCallback):
    """Trainer's bar, and above it a line per entry of the learning curve, all on standard error."""

    def __init__(self, metric: str):
        super().__init__()
        self._metric = metric

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **keywords: Any) -> None:
        for row in epoch_rows([logs], self._metric):
            tqdm.write("  ".join(f"{name} {value:.4g}" for name, value in row.items()), file=sys.stderr)


class ClassifierTrainer(Trainer):
    """Trainer with our optimiser groups, and the ratio loss where routers are trained.

    Args:
        settings: Of the run.
        train: Rows to fit.
        dev: Rows that choose the epoch; None for the last.
        metric: Its name, and its value from targets and logits.
        folder: For checkpoints.
        seed: Of order and strands.
        device: To train on.
        keeps_state: Write what ``resume`` needs.
        callbacks: Further ones.
    """

    def __init__(
        self,
        model: Any,
        settings: FinetuneSettings,
        *,
        train: Rows,
        dev: Rows | None,
        metric: tuple[str, Callable[[NDArray, NDArray], float]],
        folder: Path,
        seed: int,
        device: torch.device,
        keeps_state: bool,
        callbacks: list[TrainerCallback],
    ):
        self._settings = settings
        self._collators = {True: Collator(model.config, settings.reverse_complement_augmentation),
                           False: Collator(model.config)}  # fmt: skip
        name, compute = metric
        arguments = _arguments(settings, train, dev, f"eval_{name}", folder, seed, device, keeps_state)
        if dev is not None and settings.patience is not None:
            callbacks = [*callbacks, EarlyStoppingCallback(settings.patience)]
        super().__init__(
            model,
            arguments,
            data_collator=self._collators[True],
            train_dataset=train,
            eval_dataset=dev,
            compute_metrics=lambda found: {name: compute(*_arrays(found))},
            callbacks=callbacks,
        )
        # Trainer prints its logs as dictionaries, with a bar or without.
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        if settings.progress:
            self.add_callback(_Bar(name))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW by group: head and outer layers at the learning rate, the trunk at its multiple."""
        if self.optimizer is None:
            s = self._settings
            rates = {"head": s.head_rate, "outer": 1.0, "trunk": s.trunk_rate}
            assert self.model is not None
            groups = parameter_groups(self.model, group_of, s.peak_rate, s.weight_decay, rates)
            self.optimizer = torch.optim.AdamW(groups)
        return self.optimizer

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Batches of dev, whose strands are never drawn."""
        self.data_collator = self._collators[False]
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = self._collators[True]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The classifier's loss, plus in training of routers the ratio loss; their offsets move as in pre-training.

        Raises:
            TrainingStopped: It is NaN or infinite.
        """
        output = model(**inputs)
        loss = output.loss
        if self._settings.routers == "ratio" and model.training and model.config.has_offsets:
            loss = loss + self._ratio_loss(model, output)
        if model.training and not math.isfinite(float(loss.detach())):
            raise TrainingStopped(
                f"the loss is {float(loss.detach())} at step {self.state.global_step}; lower --learning-rate"
            )
        return (loss, output) if return_outputs else loss

    def _ratio_loss(self, model: Any, output: Any) -> Tensor:
        config = model.config
        strands = [stages for stages in (output.stages, output.reverse_stages) if stages is not None]
        counts = [count_boundaries(stages) for stages in strands]
        total = torch.stack([count.sum(0) for count in counts]).sum(0)
        move_offsets(model.model.routers, total, config.target_ratios, config.router_offset_rate)
        losses = [
            ratio_losses(stages, count, config.target_ratios).sum()
            for stages, count in zip(strands, counts, strict=True)
        ]
        return config.ratio_loss_weight * torch.stack(losses).mean()


def _arrays(found: EvalPrediction) -> tuple[NDArray, NDArray]:
    assert isinstance(found.predictions, np.ndarray)
    assert isinstance(found.label_ids, np.ndarray)
    return found.label_ids, found.predictions


def _arguments(
    settings: FinetuneSettings,
    train: Rows,
    dev: Rows | None,
    metric: str,
    folder: Path,
    seed: int,
    device: torch.device,
    keeps_state: bool,
) -> TrainingArguments:
    saves = keeps_state or dev is not None
    last = last_checkpoint(folder)
    # A run that was interrupted after it had stopped early has no epoch left.
    epochs = epochs_if_stopped(last, settings.patience) or settings.epochs
    micro = micro_batch(settings.batch_size, train.longest)
    by_length = len(set(map(len, train.bases))) > 1
    return _OneDevice(
        str(folder),
        num_train_epochs=float(epochs),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // micro,
        per_device_eval_batch_size=1 if dev is None else max(DEFAULT_BATCH_BASES // dev.longest, 1),
        learning_rate=settings.peak_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        train_sampling_strategy="group_by_length" if by_length else "random",
        eval_strategy="no" if dev is None else "epoch",
        save_strategy="epoch" if saves else "no",
        save_only_model=not keeps_state,
        save_total_limit=2,  # the best and the last
        load_best_model_at_end=dev is not None,
        metric_for_best_model=metric,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # the count of early stopping
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # compute_loss stops there
        seed=seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        disable_tqdm=not settings.progress,
        report_to=[],  # as callbacks, so that nothing is set in the environment
    )


def micro_batch(batch_size: int, longest: int) -> int:
    """Rows of one forward pass: the largest divisor of the batch size whose rows fit into 16,384 bases."""
    fits = max(DEFAULT_BATCH_BASES // longest, 1)
    return max(size for size in range(1, batch_size + 1) if batch_size % size == 0 and size <= fits)


def report_callbacks(report_to: str, folder: Path) -> list[TrainerCallback]:
    """What reports to TensorBoard or W&B while training; TensorBoard's files go into ``tensorboard`` of a folder."""
    if report_to == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        return [TensorBoardCallback(SummaryWriter(str(folder / TENSORBOARD)))]
    if report_to == "wandb":
        from transformers.integrations import WandbCallback

        return [WandbCallback()]
    return []


def add_adapters(model: Any, rank: int) -> Any:
    """The model with LoRA adapters on the linear layers of its blocks, and a head that is trained whole."""
    from peft import LoraConfig, TaskType, get_peft_model

    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=2 * rank,
        target_modules=_ADAPTED_MODULES,
        modules_to_save=["classifier"],
    )
    return get_peft_model(model, lora)
