"""The schema of a pre-training run: every setting, its type, its default. YAML fills it; unknown keys are refused."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError
from ..parameter_names import GRAFTED_GROUPS

T = TypeVar("T")


@dataclass(frozen=True)
class MaskSettings:
    """How training windows are masked.

    Attributes:
        rate: Share of the bases that become targets.
        span: Length of masked spans in bases; 1 masks single bases.
        mask_share: Share of spans shown as [MASK].
        random_share: Share of spans shown as random bases; the rest is shown unchanged.
    """

    rate: float = 0.15
    span: int = 6
    mask_share: float = 0.8
    random_share: float = 0.1


@dataclass(frozen=True)
class DataSettings:
    """Where windows come from.

    Attributes:
        fasta: Genome (.fa, .fa.gz or .2bit).
        intervals: BED with chrom, start, end, split; None splits by chromosome.
        bundled: Use the human sequence that comes with the package instead of ``fasta`` and ``intervals``.
        repeats: Repeats from a BED instead of the genome's soft mask.
        seq_length: Bases per window.
        num_workers: Processes that prepare batches, per device; None is four, or the cores that there are for each.
        repeat_weight: Loss weight of repeats in training.
        cache_dir: Where the byte cache of the genome goes; None is the package's usual place.
        max_n_share: Windows with a larger share of N are left out.
        mask: Masking of training windows.
    """

    fasta: str | None = None
    intervals: str | None = None
    bundled: bool = False
    repeats: str | None = None
    seq_length: int = 1024
    num_workers: int | None = None
    repeat_weight: float = 0.1
    cache_dir: str | None = None
    max_n_share: float = 0.5
    mask: MaskSettings = field(default_factory=MaskSettings)


@dataclass(frozen=True)
class BatchSettings:
    """Windows per optimiser step and per forward pass.

    Attributes:
        global_size: Over all devices and accumulation steps.
        micro_batch_size: Per device and forward pass; None measures it on CUDA; on a CPU it is at most
            ``cpu_micro_batch_size``.
        cpu_micro_batch_size: Most windows per forward pass on a CPU.
        cuda_start: Where the measurement starts halving.
    """

    global_size: int = 512
    micro_batch_size: int | None = None
    cpu_micro_batch_size: int = 8
    cuda_start: int = 128


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW. ``multipliers`` scale the learning rate of each parameter group."""

    learning_rate: float = 6e-4
    betas: tuple[float, ...] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    multipliers: dict[str, float] = field(
        default_factory=lambda: {
            **{"base": 2.45, "stage1": 1.34, "stage2": 0.95},
            **dict.fromkeys(GRAFTED_GROUPS, 0.95),
        }
    )


@dataclass(frozen=True)
class PhaseSettings:
    """One phase of a warm start. Shares and weights are one number, or two: at the phase's first and last step.

    Attributes:
        steps: Optimiser steps; 0 skips the phase (the last phase takes all that are left).
        multipliers: Learning-rate multipliers that replace those of ``optimizer`` in this phase; 0 freezes a group.
        grid_share: Share of NTv2's k-mer cells that are forced, and of windows whose masks lie on its grid.
        anchor_share: Share of the flanks of masked runs that form one clean chunk.
        ratio_weight: Factor of the model's ratio loss weight.
        hidden_state_weight: Weight of the teacher; 0 is off.
    """

    steps: int = 0
    multipliers: dict[str, float] = field(default_factory=dict)
    grid_share: tuple[float, ...] = (0.0,)
    anchor_share: tuple[float, ...] = (1.0,)
    ratio_weight: tuple[float, ...] = (1.0,)
    hidden_state_weight: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class WarmStartSettings:
    """How training leaves NTv2's grid.

    Attributes:
        when: "graft" runs the phases if ``init`` is a grafted model, "always" and "never" do as they say.
        align: Grid forced, trunk frozen.
        release: The grid fades out, the ratio loss comes in.
        joint: The rest of the run.
        teacher: Folder or Hub name of the source, for the teacher.
        teacher_revision: Of a Hub name; None is the commit in the ledger of the graft.
        teacher_layer: Trunk blocks after which the teacher compares.
    """

    when: str = "graft"
    align: PhaseSettings = field(default_factory=PhaseSettings)
    release: PhaseSettings = field(default_factory=PhaseSettings)
    joint: PhaseSettings = field(default_factory=PhaseSettings)
    teacher: str | None = None
    teacher_revision: str | None = None
    teacher_layer: int = 4


@dataclass(frozen=True)
class SchedulerSettings:
    """Linear warm-up over a fraction of the steps, then a cosine to the peak divided by ``final_divisor``."""

    warmup_fraction: float = 0.1
    final_divisor: float = 6.0


@dataclass(frozen=True)
class TrainerSettings:
    """The training loop.

    Attributes:
        max_steps: Optimiser steps.
        accelerator: "auto", "cpu" or "cuda".
        devices: Devices per node.
        num_nodes: Nodes.
        strategy: "auto" (one device, or DDP), "ddp" or "fsdp".
        precision: "16", "bf16" or "32".
        gradient_clip: Largest norm of the whole gradient; None for no clipping.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
    """

    max_steps: int = 50_000
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "16"
    gradient_clip: float | None = 0.5
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class ValidationSettings:
    """What validation measures, on targets shown as [MASK] only.

    Attributes:
        every: Optimiser steps between validations; None validates at the end only.
        windows: Windows of the validation split, the same ones each time.
        anchors: Anchor settings that are reported; the model's own (inference) setting is always among them.
        grid: Also predict on NTv2's grid, with whole tokens of it masked.
        strands: "forward" or "both"; None is the model's own setting.
    """

    every: int | None = 1000
    windows: int = 512
    anchors: tuple[bool, ...] = (False, True)
    grid: bool = True
    strands: str | None = None


@dataclass(frozen=True)
class CallbackSettings:
    """Checkpoints, logging intervals and the conditions that stop a run.

    Attributes:
        checkpoint_every: Optimiser steps between checkpoints.
        keep_checkpoints: Numbered checkpoints that are kept besides the best and the last.
        log_every: Optimiser steps between rows of the log.
        router_gradients_every: Optimiser steps between measurements of the routers' gradients; 0 for never.
        progress_bar: Draw a bar on a terminal; else plain lines.
        plain_log_every: Optimiser steps between plain lines.
        collapse_patience: Consecutive steps that a chunk ratio may stay under a third of its target or over three times
            it; 0 never stops the run for it.
    """

    checkpoint_every: int = 1000
    keep_checkpoints: int = 1
    log_every: int = 10
    router_gradients_every: int = 100
    progress_bar: bool = True
    plain_log_every: int = 50
    collapse_patience: int = 200


@dataclass(frozen=True)
class LoggerSettings:
    """CSV and TensorBoard always; Weights & Biases when ``wandb_project`` is set.

    Attributes:
        wandb_project: Project name.
        wandb_entity: User or team.
        wandb_mode: "online" or "offline"; None is online with an account, else offline.
    """

    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_mode: str | None = None


_CHOICES: dict[str, tuple[str | None, ...]] = {
    "trainer.accelerator": ("auto", "cpu", "cuda"),
    "trainer.strategy": ("auto", "ddp", "fsdp"),
    "warm_start.when": ("graft", "always", "never"),
    "validation.strands": (None, "forward", "both"),
    "logger.wandb_mode": (None, "online", "offline"),
}
_POSITIVE = (
    "trainer.max_steps",
    "data.seq_length",
    "validation.every",
    "validation.windows",
    "callbacks.checkpoint_every",
    "callbacks.log_every",
    "callbacks.plain_log_every",
    "optimizer.learning_rate",
)


@dataclass(frozen=True)
class PretrainSettings:
    """One pre-training run.

    Attributes:
        experiment_name: Name of the run in logs.
        output_dir: Gets ``checkpoints``, ``logs`` and ``configs``.
        seed: Of the weights, the windows and the masks.
        resume: "last", or a checkpoint to go on from; None starts anew.
        allow_changed_max_steps: Resume although ``trainer.max_steps`` differs (the schedule then differs too).
        overwrite: Start anew in a folder that holds the checkpoints of another run, and delete those.
        init: Folder of a saved model to start from.
        calibration_windows: Training windows on which the routers of random weights are set to their targets; 0: none.
        model: Settings of ``HNetNTV2Config``.
        data: See :class:`DataSettings`.
        batch: See :class:`BatchSettings`.
        optimizer: See :class:`OptimizerSettings`.
        scheduler: See :class:`SchedulerSettings`.
        warm_start: See :class:`WarmStartSettings`.
        trainer: See :class:`TrainerSettings`.
        validation: See :class:`ValidationSettings`.
        callbacks: See :class:`CallbackSettings`.
        logger: See :class:`LoggerSettings`.
    """

    experiment_name: str = "hnet_ntv2"
    output_dir: str = "outputs/hnet_ntv2"
    seed: int = 2222
    resume: str | None = None
    allow_changed_max_steps: bool = False
    overwrite: bool = False
    init: str | None = None
    calibration_windows: int = 32
    model: dict[str, Any] = field(default_factory=dict)
    data: DataSettings = field(default_factory=DataSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    warm_start: WarmStartSettings = field(default_factory=WarmStartSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    callbacks: CallbackSettings = field(default_factory=CallbackSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := attrgetter(name)(self)) not in choices:
                raise ConfigError(f"{name}={value!r} is none of {', '.join(map(str, choices))}")
        if self.calibration_windows < 0:
            raise ConfigError(f"calibration_windows is {self.calibration_windows}; it must not be negative")
        for name in _POSITIVE:
            if (value := attrgetter(name)(self)) is not None and value <= 0:
                raise ConfigError(f"{name}={value} must be positive")
        if len(self.optimizer.betas) != 2:
            raise ConfigError(f"optimizer.betas={list(self.optimizer.betas)} must be two numbers")
        if self.data.seq_length > 131_072:  # bases of an interval of the usual split
            raise ConfigError(f"data.seq_length={self.data.seq_length} is over the longest window, 131072 bases")

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output_dir)


_REFUSED = object()
_GONE = (
    "there is no such choice any more (docs/decisions/{}), version 0.1.0 was the last to have it; leave the line out"
)
REMOVED: dict[str, tuple[Any, str]] = {
    "trainer.compile": (_REFUSED, _GONE.format("0015")),
    "trainer.deterministic": (False, _GONE.format("0017")),
    "callbacks.collapse_factor": (3.0, _GONE.format("0017")),
    "validation.mask_free": (True, _GONE.format("0017")),
    **{
        f"warm_start.{phase}.marginals_weight": ([0.0], _GONE.format("0017")) for phase in ("align", "release", "joint")
    },
}
"""Settings of earlier versions: the default, at which a saved config may still name them, and what to tell else."""


def build_settings(cls: type[T], values: Mapping[str, Any], source: str, prefix: str = "") -> T:
    """Fill a settings class from plain values, strictly.

    Args:
        cls: One of the classes above.
        values: What YAML gave.
        source: File or place the values come from, for errors.
        prefix: Dotted path of ``values`` within the whole.

    Raises:
        ConfigError: An unknown key or a value of the wrong type, named with its source.
    """
    hints = typing.get_type_hints(cls)
    built = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if path in REMOVED:
            default, reason = REMOVED[path]
            if type(value) is not type(default) or value != default:  # False equals 0
                raise ConfigError(f"setting {path!r} in {source}: {reason}")
        elif name not in hints:
            raise ConfigError(f"unknown setting {path!r} in {source}; known here: {', '.join(sorted(hints))}")
        else:
            built[name] = _convert(value, hints[name], source, path)
    return cls(**built)


def _convert(value: Any, annotation: Any, source: str, name: str) -> Any:
    """A YAML value in the annotated type. Only int becomes float, a number a precision string, a list a tuple."""
    if dataclasses.is_dataclass(annotation) and isinstance(value, Mapping):
        return build_settings(typing.cast(type, annotation), value, source, f"{name}.")
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        options = typing.get_args(annotation)
        if value is None and type(None) in options:
            return None
        annotation = next(option for option in options if option is not type(None))
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, inner[0], source, name) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _convert(item, inner[1], source, f"{name}.{key}") for key, item in value.items()}
    if annotation is Any:
        return value
    # bool is an int for Python: `gradient_clip: true` must not mean 1.0
    if annotation is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) < math.inf:  # YAML has words for NaN and infinity; "not <" catches both
            raise ConfigError(f"setting {name}={value!r} in {source} must be a finite number")
        return float(value)
    if name == "trainer.precision" and type(value) is int:  # `precision: 16` is an int for YAML
        return str(value)
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    expected = str(annotation) if origin else getattr(annotation, "__name__", str(annotation))
    raise ConfigError(f"setting {name}={value!r} in {source} must be {expected}, not {type(value).__name__}")
