"""Split the global batch into micro-batches: micro-batch x devices x nodes x accumulation steps, exactly."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import torch

from ..errors import ConfigError

logger = logging.getLogger(__name__)

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
    """

    global_batch_size: int
    micro_batch_size: int
    devices: int = 1
    num_nodes: int = 1

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


def plan_batch(global_batch_size: int, micro_batch_size: int, devices: int = 1, num_nodes: int = 1) -> BatchPlan:
    """Plan with exactly this micro-batch.

    Raises:
        ConfigError: The global batch is not a multiple; the message lists the nearest ones that are.
    """
    _require_divisible(global_batch_size, micro_batch_size, devices, num_nodes)
    return BatchPlan(global_batch_size, micro_batch_size, devices, num_nodes)


def plan_batch_up_to(global_batch_size: int, most: int, devices: int = 1, num_nodes: int = 1) -> BatchPlan:
    """Plan with the largest micro-batch of at most ``most`` windows that divides the batch evenly.

    Raises:
        ConfigError: The global batch is not a multiple of the number of devices.
    """
    _require_divisible(global_batch_size, 1, devices, num_nodes)
    per_device = global_batch_size // (devices * num_nodes)
    micro = next(size for size in range(min(most, per_device), 0, -1) if per_device % size == 0)
    return BatchPlan(global_batch_size, micro, devices, num_nodes)


class PlanAgreement(L.Callback):
    """Gives every rank the least micro-batch that any of them planned, before the first batch is drawn.

    Ranks measure their devices each for itself. With different micro-batches they would run different numbers of
    forward passes per step, and wait for each other for ever. This is a callback because ranks can talk to each other
    only once the trainer has started them all.

    Args:
        plan: What this rank would do.
        change: Takes the plan of all ranks where it is another one.
    """

    def __init__(self, plan: BatchPlan, change: Callable[[BatchPlan], None]):
        self.plan = plan
        self.change = change

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Agree, and let data and accumulation follow."""
        own = torch.tensor(self.plan.micro_batch_size, device=trainer.strategy.root_device)
        # It divides the batch evenly, since it is some rank's plan.
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
            torch.cuda.empty_cache()
        size //= 2
    raise ConfigError(f"not even one window fits in the device's memory: {OUT_OF_MEMORY_ADVICE}")


def _require_divisible(global_batch_size: int, micro_batch_size: int, devices: int, num_nodes: int) -> None:
    sizes = {
        "batch_size": global_batch_size,
        "micro_batch_size": micro_batch_size,
        "devices": devices,
        "num_nodes": num_nodes,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name}={size} must be at least 1")
    unit = micro_batch_size * devices * num_nodes
    if global_batch_size % unit:
        below = global_batch_size // unit * unit
        nearest = [str(size) for size in (below - unit, below, below + unit, below + 2 * unit) if size > 0]
        raise ConfigError(
            f"batch_size={global_batch_size} is not a multiple of {unit} = {micro_batch_size} per micro-batch x "
            f"{devices} device(s) x {num_nodes} node(s); the nearest that are: {', '.join(nearest)}"
        )
