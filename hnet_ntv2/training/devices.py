"""What a run computes on: strategy over devices, precision, and the split of the global batch into micro-batches."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning as L
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from ..backbone import LocalBlock, NTv2Block
from ..chunking import ChunkLimits, Router, decide_boundaries
from ..errors import ConfigError
from ..levels import Chunking, Level
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..vocabulary import FIRST_BASE
from .checkpoint_format import SafetensorsCheckpointIO
from .settings import TrainerSettings

logger = logging.getLogger(__name__)


def device_type(settings: TrainerSettings) -> str:
    """ "cuda" or "cpu", after "auto" is resolved.

    Raises:
        ConfigError: CUDA is asked for and not there, or there are fewer devices than asked for.
    """
    has_cuda = torch.cuda.is_available()
    if settings.accelerator == "cuda" and not has_cuda:
        raise ConfigError("trainer.accelerator=cuda, but torch sees no CUDA device; use cpu, or a CUDA build of torch")
    kind = "cuda" if has_cuda and settings.accelerator != "cpu" else "cpu"
    if kind == "cuda" and settings.devices > torch.cuda.device_count():
        raise ConfigError(f"--devices {settings.devices}, but torch sees {torch.cuda.device_count()} CUDA device(s)")
    return kind


def build_strategy(settings: TrainerSettings, kind: str) -> Strategy | str:
    """Lightning's strategy for the number of devices.

    Raises:
        ConfigError: FSDP without CUDA.
    """
    if settings.strategy == "fsdp":
        if kind != "cuda":
            raise ConfigError("trainer.strategy=fsdp needs CUDA devices; use auto")
        return ShardedStrategy(auto_wrap_policy={NTv2Block, LocalBlock})
    if settings.strategy == "ddp" or settings.devices * settings.num_nodes > 1:
        return DDPStrategy(find_unused_parameters=False)  # every parameter gets a gradient in every step
    return "auto"  # one device


def build_plugins() -> list[Any]:
    """Checkpoints in our format; SLURM without Lightning's requeueing, which would save in the middle of a step."""
    plugins: list[Any] = [SafetensorsCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def local_rank() -> int:
    """Which device of its node this process works on, before Lightning says so."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))


def is_first_process() -> bool:
    """Whether this is the process of global rank 0, before Lightning says so."""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), "0")) == 0 and local_rank() == 0


class ShardedStrategy(FSDPStrategy):
    """FSDP whose checkpoints are those of one device: full tensors, assembled on rank 0, in our own format."""

    shards_parameters = True

    @property
    def mixed_precision_config(self) -> None:
        """No casts by FSDP: autocast decides what runs in half precision, exactly as on one device.

        Lightning's policy for "bf16-mixed" would cast weights, inputs and buffers: the routers would see bfloat16, and
        their offsets would lose moves of 3e-4. The price is that weights travel between devices in float32.
        """
        return

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Rank 0 holds the full state by now and writes it."""
        path = Path(self.broadcast(filepath))
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Every rank reads the full state and takes its shards of weights and optimizer state."""
        from torch.distributed import fsdp
        from torch.distributed.fsdp import FullyShardedDataParallel as FSDP  # noqa: N817  (its usual name)

        assert self.model is not None
        assert self.lightning_module is not None
        path = Path(self.broadcast(checkpoint_path))
        checkpoint = self.checkpoint_io.load_checkpoint(path)
        settings = (fsdp.FullStateDictConfig(rank0_only=False), fsdp.FullOptimStateDictConfig(rank0_only=False))
        with FSDP.state_dict_type(self.model, fsdp.StateDictType.FULL_STATE_DICT, *settings):
            self.model.load_state_dict(checkpoint.pop("state_dict"), strict=self.lightning_module.strict_loading)
            if self.lightning_module.trainer.state.fn == TrainerFn.FITTING:
                for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
                    named = FSDP.rekey_optim_state_dict(state, fsdp.OptimStateKeyType.PARAM_NAME, self.model)
                    shard = FSDP.optim_state_dict_to_load(model=self.model, optim=optimizer, optim_state_dict=named)
                    optimizer.load_state_dict(shard)
        return checkpoint


class Precision(NamedTuple):
    """The arithmetic of a run: Lightning's name for it, and a sentence for the user."""

    lightning: str
    explanation: str

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Type of the matrix products, None for float32 throughout."""
        return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.lightning)


_ALIASES = {"16": "16", "16-mixed": "16", "bf16": "bf16", "bf16-mixed": "bf16", "32": "32", "32-true": "32"}


def resolve_precision(requested: str | int, device_type: str) -> Precision:
    """Resolve ``16`` (half, whichever kind the device is good at), ``bf16`` or ``32``.

    On CUDA 16 means bf16 where the hardware has it (emulation not counted), else fp16 with loss scaling. On a CPU 16
    and bf16 mean bf16 where its instructions exist, else float32: emulating them would only be slower.

    Raises:
        ConfigError: Any other value, or bf16 on a CUDA device without it.
    """
    wanted = _ALIASES.get(str(requested))
    if wanted is None:
        raise ConfigError(f"precision={requested!r} is none of 16, bf16, 32")
    if wanted == "32":
        return Precision("32-true", "float32, as asked for")
    if device_type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16-mixed", f"bf16 mixed precision (precision={wanted}; native on this GPU)")
        if wanted == "bf16":
            raise ConfigError(
                "precision=bf16: this GPU only emulates bf16, slowly; use --precision 16 (fp16 with loss scaling)"
            )
        explanation = "fp16 mixed precision with loss scaling (precision=16; this GPU has no native bf16)"
        return Precision("16-mixed", explanation)
    if cpu_has_bf16():
        return Precision("bf16-mixed", f"bf16 mixed precision (precision={requested}; this CPU has bf16 instructions)")
    return Precision("32-true", f"float32 (precision={requested}, but this CPU has no bf16 instructions)")


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware (AVX-512 BF16, AMX, or the Arm extension), as Linux lists it."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():  # not Linux; Apple's CPUs run in float32
        return False
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    # All cores of a machine list the same features.
    flags = next((line for line in lines if line.partition(":")[0].strip().lower() in ("flags", "features")), "")
    return not {"bf16", "avx512_bf16", "amx_bf16"}.isdisjoint(flags.split())


OUT_OF_MEMORY_ADVICE = (
    "the micro-batch does not fit in memory. Make it smaller with `-- batch.micro_batch_size=N` (the global batch "
    "stays, accumulation makes up for it), or take a shorter --seq-length, or `-- trainer.gradient_checkpointing=true`"
)


@dataclass(frozen=True)
class BatchPlan:
    """How one optimiser step gets its windows.

    Attributes:
        global_batch_size: Windows per optimiser step over all devices.
        micro_batch_size: Windows per device and forward pass.
        devices: Devices per node.
        num_nodes: Nodes.

    Raises:
        ConfigError: The global batch is not a multiple; the message lists the nearest ones that are.
    """

    global_batch_size: int
    micro_batch_size: int
    devices: int = 1
    num_nodes: int = 1

    def __post_init__(self) -> None:
        for name, size in dataclasses.asdict(self).items():
            if size < 1:
                raise ConfigError(f"{name.removeprefix('global_')}={size} must be at least 1")
        unit = self.micro_batch_size * self.world_size
        if self.global_batch_size % unit:
            below = self.global_batch_size // unit * unit
            nearest = [str(size) for size in (below - unit, below, below + unit, below + 2 * unit) if size > 0]
            raise ConfigError(
                f"batch_size={self.global_batch_size} is not a multiple of {unit} = {self.micro_batch_size} per "
                f"micro-batch x {self.devices} device(s) x {self.num_nodes} node(s); the nearest that are: "
                f"{', '.join(nearest)}"
            )

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    @property
    def accumulation(self) -> int:
        """Forward passes per device and optimiser step."""
        return self.global_batch_size // (self.micro_batch_size * self.world_size)

    def __str__(self) -> str:
        return (
            f"{self.global_batch_size} windows per step = {self.micro_batch_size} per micro-batch x {self.devices} "
            f"device(s) x {self.num_nodes} node(s) x {self.accumulation} accumulation step(s)"
        )


def plan_batch_up_to(global_batch_size: int, most: int, devices: int = 1, num_nodes: int = 1) -> BatchPlan:
    """Plan with the largest micro-batch of at most ``most`` windows that divides the batch evenly.

    Raises:
        ConfigError: The global batch is not a multiple of the number of devices.
    """
    per_device = BatchPlan(global_batch_size, 1, devices, num_nodes).accumulation
    micro = next(size for size in range(min(most, per_device), 0, -1) if per_device % size == 0)
    return BatchPlan(global_batch_size, micro, devices, num_nodes)


@dataclass(eq=False)
class PlanAgreement(L.Callback):
    """Sets every rank's micro-batch to the least that any rank planned, before the first batch is drawn.

    Each rank measures its own device. Ranks with different micro-batches would run different numbers of forward passes
    per step and wait for each other for ever. A callback, since ranks can communicate only once the trainer has started
    them.

    Args:
        plan: This rank's plan.
        change: Called with the common plan where it differs.
    """

    plan: BatchPlan
    change: Callable[[BatchPlan], None]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the least micro-batch; adapt accumulation and data to it."""
        own = torch.tensor(self.plan.micro_batch_size, device=trainer.strategy.root_device)
        # The least divides the batch evenly: it is the plan of some rank.
        least = int(trainer.strategy.reduce(own, reduce_op="min"))
        if least == self.plan.micro_batch_size:
            return
        self.plan = dataclasses.replace(self.plan, micro_batch_size=least)
        logger.warning("another device holds fewer windows; batch: %s", self.plan)
        trainer.accumulate_grad_batches = self.plan.accumulation
        self.change(self.plan)


def largest_that_fits(attempt: Callable[[int], None], start: int) -> int:
    """Halve a micro-batch until it fits on the device.

    Args:
        attempt: Runs a forward and backward pass on that many windows at the guard's greatest chunk count.
        start: Windows to begin with.

    Returns:
        The first of start, start/2, ... 1 for which ``attempt`` does not run out of memory.

    Raises:
        ConfigError: A single window does not fit.
    """
    size = start
    while size >= 1:
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            logger.info("micro-batch %d does not fit in the device's memory", size)
        else:
            logger.info("micro-batch %d fits in the device's memory at the guard's greatest chunk count", size)
            return size
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # else the fragments of this attempt count against the next
        size //= 2
    raise ConfigError(f"not even one window fits in the device's memory: {OUT_OF_MEMORY_ADVICE}")


# AdamW keeps two tensors per parameter besides the gradient; DDP's buckets hold the gradients themselves.
_OPTIMIZER_COPIES = 2


def measure_micro_batch(
    model: HNetNTV2ForMaskedLM, seq_length: int, precision: Precision, device: torch.device, start: int
) -> int:
    """Most windows of ``seq_length`` bases, as a halving of ``start``, that a training step can hold.

    Args:
        model: The model; it is moved to ``device``, its weights and gradients are left as they were.
        seq_length: Bases per window.
        precision: The arithmetic of the run.
        device: A CUDA device.
        start: Windows to begin with.
    """
    nn.Module.to(model, device)
    model.train()
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    # Stands for the optimizer's state, which is allocated after the first step only.
    ballast = torch.empty(_OPTIMIZER_COPIES * num_parameters, dtype=torch.float32, device=device)

    def attempt(size: int) -> None:
        try:
            train_once(model, size, seq_length, precision.autocast_dtype, device)
        finally:
            model.zero_grad(set_to_none=True)

    size = largest_that_fits(attempt, start)
    del ballast
    torch.cuda.empty_cache()  # the run allocates blocks of other sizes
    return size


class _Everywhere(nn.Module):
    """Wants a boundary at every position, so that the guard's upper limits decide the chunk counts."""

    def __init__(self, chunker: nn.Module):
        super().__init__()
        self.chunker = chunker
        self.limits = cast(ChunkLimits, chunker.limits)

    def forward(self, level: Level) -> Chunking:
        is_learned = isinstance(self.chunker, Router)  # only then its own work takes memory
        probability = self.chunker(level).probability if is_learned else level.is_valid.float()
        return decide_boundaries(probability.clamp(min=0.75).masked_fill(~level.is_valid, 0.0), level, self.limits)


@contextlib.contextmanager
def _boundaries_everywhere(model: HNetNTV2ForMaskedLM) -> Iterator[None]:
    """Any chunker, calibrated or not, with as many chunks as the guard allows."""
    stages = model.model.stages
    before = [stage.router for stage in stages], model.model.branching, model.moves_offsets
    for stage in stages:
        stage.router = _Everywhere(stage.router)
    model.model.branching, model.moves_offsets = None, False
    try:
        yield
    finally:
        for stage, router in zip(stages, before[0], strict=True):
            stage.router = router
        model.model.branching, model.moves_offsets = before[1:]


def train_once(
    model: HNetNTV2ForMaskedLM, size: int, seq_length: int, autocast_dtype: torch.dtype | None, device: torch.device
) -> float:
    """One forward and backward pass at the guard's greatest chunk count; returns the achieved ratio of stage 1.

    Args:
        model: In training mode on ``device``.
        size: Windows.
        seq_length: Bases per window.
        autocast_dtype: Type of mixed precision; None for float32.
        device: Where it runs.
    """
    generator = torch.Generator().manual_seed(0)  # its own: the run's random numbers must not depend on a measurement
    labels = torch.randint(FIRST_BASE, FIRST_BASE + 4, (size, seq_length), generator=generator).to(device)
    input_ids = labels.clone()
    input_ids[:, ::7] = model.config.mask_token_id
    autocast = torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None)
    with _boundaries_everywhere(model), autocast:
        output = model(input_ids, labels=labels)
        output.loss.backward()
    return float(output.stages[0].achieved_ratio)
