"""How a run is spread over devices: one, DDP, or FSDP with checkpoints of our own format."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn

from ..backbone import LocalBlock, NTv2Block
from ..errors import ConfigError
from .checkpoint_io import SafetensorsCheckpointIO
from .settings import TrainerSettings


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
    """The strategy for a number of devices.

    Raises:
        ConfigError: FSDP without CUDA.
    """
    if settings.strategy == "fsdp":
        if kind != "cuda":
            raise ConfigError("trainer.strategy=fsdp needs CUDA devices; use auto")
        return ShardedStrategy(auto_wrap_policy={NTv2Block, LocalBlock})
    if settings.strategy == "ddp" or settings.devices * settings.num_nodes > 1:
        return DDPStrategy(find_unused_parameters=False)  # every parameter gets a gradient in every step
    return "auto"


def build_plugins() -> list[Any]:
    """Our checkpoints, and SLURM without Lightning's own requeueing, which would save in the middle of a step."""
    plugins: list[Any] = [SafetensorsCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def local_rank() -> int:
    """Which device of its node this process works on, before Lightning says so."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))


def is_first_process() -> bool:
    """Whether this is the process of global rank 0, before Lightning says so."""
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))
    if rank is None:
        rank = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return int(rank) == 0 and local_rank() == 0


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

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Rank 0 holds the full state by now and writes it."""
        path = Path(self.broadcast(filepath))
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Every rank reads the full state and takes its shards of weights and optimizer state."""
        from torch.distributed.fsdp import (
            FullOptimStateDictConfig,
            FullStateDictConfig,
            OptimStateKeyType,
            StateDictType,
        )
        from torch.distributed.fsdp import FullyShardedDataParallel as FSDP  # noqa: N817  (its usual name)

        assert self.model is not None
        assert self.lightning_module is not None
        path = Path(self.broadcast(checkpoint_path))
        checkpoint = self.checkpoint_io.load_checkpoint(path)
        settings = (FullStateDictConfig(rank0_only=False), FullOptimStateDictConfig(rank0_only=False))
        with FSDP.state_dict_type(self.model, StateDictType.FULL_STATE_DICT, *settings):
            self.model.load_state_dict(checkpoint.pop("state_dict"), strict=self.lightning_module.strict_loading)
            if self.lightning_module.trainer.state.fn == TrainerFn.FITTING:
                for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
                    named = FSDP.rekey_optim_state_dict(state, OptimStateKeyType.PARAM_NAME, self.model)
                    shard = FSDP.optim_state_dict_to_load(model=self.model, optim=optimizer, optim_state_dict=named)
                    optimizer.load_state_dict(shard)
        return checkpoint
