"""The settings of fine-tuning, checked."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from ..errors import ConfigError
from ..pooling import ClassifierPooling
from ..strands import Strands

Mode = Literal["full", "lora"]
Routers = Literal["frozen", "ratio"]
Report = Literal["none", "csv", "tensorboard", "wandb"]

_PEAK_RATES = {"full": 1e-3, "lora": 2e-3}


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
        mode: Train all weights, or LoRA adapters and the head.
        pooling: ``config.classification_pooling``: mean, max, first, bins, attention or convolution.
        epochs: Most passes over train.
        batch_size: Rows of an optimiser step.
        learning_rate: Peak of the outer layers (embeddings, encoders, routers, decoders); None for 1e-3, and 2e-3 for
            adapters, which start at zero.
        head_rate: Multiple of it for the head.
        trunk_rate: Multiple of it for what comes from NTv2.
        routers: "frozen", or trained and held near their target ratios by the ratio loss, which was no better on dev of
            two tasks of GUE (three seeds).
        patience: Stop after this many epochs without a better metric on dev; None to train all epochs.
        warmup: Share of the steps in which the learning rate rises; it falls as a cosine afterwards.
        weight_decay: Of matrices; norms, biases and embeddings have none.
        strands: ``config.classification_strands``: "forward", or "both" with averaged logits.
        reverse_complement_augmentation: Train on the reverse complement of each row half of the time. Wrong for tasks
            with an orientation, such as promoters and splice sites.
        lora_rank: Rank of the adapters.
        report_to: "csv" writes ``history.csv``, the others do so and more; "none" does not.
        progress: Show a bar.
    """

    mode: Mode = "full"
    pooling: ClassifierPooling = "convolution"
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float | None = None
    head_rate: float = 1.0
    trunk_rate: float = 1.0
    routers: Routers = "frozen"
    patience: int | None = 3
    warmup: float = 0.1
    weight_decay: float = 0.01
    strands: Strands = "forward"
    reverse_complement_augmentation: bool = False
    lora_rank: int = 8
    report_to: Report = "csv"
    progress: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            choices, value = get_args(field.type), getattr(self, field.name)
            if all(isinstance(choice, str) for choice in choices) and choices and value not in choices:
                raise ConfigError(f"{field.name}={value!r} is unknown; choose {', '.join(choices)}")
        for name in ("epochs", "batch_size", "lora_rank", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        for name in ("learning_rate", "head_rate", "trunk_rate", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name}={value} must be a number from 0 on")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup={self.warmup} must lie between 0 and 1")
        if self.mode == "lora" and self.routers == "ratio":
            raise ConfigError(
                "routers='ratio' trains the routers, and adapters hold none; leave out --lora or --routers"
            )

    @property
    def peak_rate(self) -> float:
        """The learning rate in use."""
        return _PEAK_RATES[self.mode] if self.learning_rate is None else self.learning_rate
