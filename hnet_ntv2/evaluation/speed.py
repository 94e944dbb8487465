"""Time whole models beside NTv2 on k-mers, in turn in one process.

Every contestant reads the same random bases, one strand, one row, round after round: a machine that slows down slows
them all. A model that does not fit the memory is timed with fewer layers and scaled up; the report says so.
"""

import copy
import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..backbone import LocalLayers
from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..configuration_ntv2 import NTv2Config
from ..conversion.calibrate import calibrate_routers
from ..conversion.graft import build_model
from ..errors import ConfigError
from ..kmers import kmer_digits
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..modeling_ntv2 import NTv2ForMaskedLM
from ..shapes import Int, Tensor
from ..vocabulary import FIRST_BASE, LAST_BASE, NUM_SOURCE_SPECIALS, SOURCE_CLS

KINDS = ("forward", "step")
_CALIBRATION_BASES = 2048
# The rest is for the allocator, a forward pass's own activations, and other processes.
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Contestant:
    """A network whose repeated layers can be fewer than it has in full.

    Attributes:
        name: As printed.
        depth: Repeated layers in full.
        build: Make the network with so many repeated layers.
        logits: Run it on [1, bases] character ids and return its logits.
    """

    name: str
    depth: int
    build: Callable[[int], nn.Module]
    logits: Callable[[nn.Module, Tensor], Tensor]


@dataclass
class Measurement:
    """Size and times of one contestant with all its layers.

    Attributes:
        name: As printed.
        depth: Repeated layers in full.
        timed_depths: Numbers of layers that were timed; two where the whole network does not fit the memory.
        num_parameters: Of the whole network.
        megaflops_per_base: Of a forward pass, counted while it ran.
        ratios: Chunks per position of each stage; empty for a network without chunks.
        seconds: Per round, by "forward" and "step" (forward and backward).
    """

    name: str
    depth: int
    timed_depths: tuple[int, ...]
    num_parameters: int = 0
    megaflops_per_base: float = 0.0
    ratios: tuple[float, ...] = ()
    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def whole(self, values: Mapping[int, float]) -> float:
        """Extrapolate a figure from the timed depths to all layers: they are alike, so it grows linearly."""
        if len(self.timed_depths) == 1:
            return values[self.depth]
        shallow, deep = self.timed_depths
        return values[deep] + (values[deep] - values[shallow]) / (deep - shallow) * (self.depth - deep)

    def speed_beside(self, other: "Measurement", kind: str) -> tuple[float, float, float]:
        """This one's speed in units of the other's: median, least and greatest over the rounds."""
        # Ratios within a round, not of two medians: what slowed a round down slowed both.
        ratios = [theirs / ours for ours, theirs in zip(self.seconds[kind], other.seconds[kind], strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


@dataclass
class SpeedReport:
    """Everything that ``hnet-ntv2 bench`` prints.

    Attributes:
        device: What it ran on.
        precision: "fp32" or "bf16".
        num_bases: Bases in the row.
        rounds: Rounds after the warm-up.
        measurements: One per contestant.
    """

    device: str
    precision: str
    num_bases: int
    rounds: int
    measurements: list[Measurement]


def our_model(name: str, config: HNetNTV2Config) -> Contestant:
    """An HNet-NTv2 with random weights and calibrated routers."""

    def build(depth: int) -> nn.Module:
        shallow = copy.deepcopy(config)
        shallow.n_main_layer = depth
        # On random letters the cap would add boundaries; without it the calibrated ratios are the targets.
        shallow.max_chunk_length = None
        model = build_model(shallow, seed=0)
        calibrate_routers(model.model, [random_bases(_CALIBRATION_BASES, seed=1)])
        return model

    return Contestant(
        name, config.n_main_layer, build, lambda model, bases: model(bases, strands="forward", anchors=False).logits
    )


def source_model(name: str, config: NTv2Config, kmer_size: int) -> Contestant:
    """An NTv2 with random weights on its own tokens."""

    def build(depth: int) -> nn.Module:
        shallow = copy.deepcopy(config)
        shallow.num_hidden_layers = depth
        return NTv2ForMaskedLM(shallow)

    return Contestant(
        name, config.num_hidden_layers, build, lambda model, bases: model(kmer_tokens(bases, kmer_size)).logits
    )


def single_nucleotides(config: HNetNTV2Config, num_layers: int) -> Contestant:
    """Windowed layers at one token per base, of the width of an HNet-NTv2: the alternative without chunks."""
    sizes = (config.d_model, config.n_head, config.intermediate_size, config.window, config.layer_norm_eps)

    def build(depth: int) -> nn.Module:
        embedding = nn.Embedding(config.vocab_size, config.d_model)
        return nn.ModuleList([embedding, LocalLayers(depth, *sizes), nn.Linear(config.d_model, config.vocab_size)])

    def logits(model: Any, bases: Tensor) -> Tensor:
        embedding, layers, head = model
        return head(layers(embedding(bases), torch.ones_like(bases, dtype=torch.bool)))

    return Contestant(f"{num_layers} windowed layers, single bases", num_layers, build, logits)


def random_bases(length: int, seed: int = 0) -> Int[Tensor, "1 length"]:
    """Uniform A, C, G, T."""
    return torch.randint(FIRST_BASE, LAST_BASE + 1, (1, length), generator=torch.Generator().manual_seed(seed))


def kmer_tokens(bases: Int[Tensor, "1 length"], k: int) -> Int[Tensor, "1 tokens"]:
    """NTv2's tokens of clean bases, ``<cls>`` in front; the remainder is left out."""
    # Not ``source_token_ids``, which makes a token per base: the source's own tokenizing would look slow.
    digits = kmer_digits(bases)[:, : bases.shape[1] // k * k].reshape(1, -1, k)
    places = 4 ** torch.arange(k - 1, -1, -1, device=bases.device)
    tokens = NUM_SOURCE_SPECIALS + (digits * places).sum(-1)
    return torch.cat([tokens.new_full((1, 1), SOURCE_CLS), tokens], dim=1)


def measure_speed(
    entries: list[Contestant],
    *,
    num_bases: int,
    rounds: int,
    device: torch.device,
    precision: str,
    report_progress: Callable[[str], None],
    memory: int | None = None,
) -> SpeedReport:
    """Time all contestants in turn, forward and forward with backward.

    Args:
        entries: The contestants.
        num_bases: Bases in the row.
        rounds: Rounds after one warm-up.
        device: Device to run on.
        precision: "fp32" or "bf16" (autocast).
        report_progress: Called with a line of text before each round.
        memory: Bytes that may be used; None for what the device has free.

    Raises:
        ConfigError: The precision is unknown, or a contestant does not fit the memory with two layers.
    """
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"precision is {precision!r}; choose fp32 or bf16")
    bases = random_bases(num_bases).to(device)
    report_progress("checking what fits the memory")
    room = int(_MEMORY_SHARE * available_memory(device)) if memory is None else memory
    cpu = f"CPU, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    report = SpeedReport(name, precision, num_bases, rounds, plan(entries, bases, precision, room))
    pairs = list(zip(entries, report.measurements, strict=True))
    models = {
        (entry.name, depth): entry.build(depth).eval().to(device)
        for entry, measured in pairs
        for depth in measured.timed_depths
    }
    for entry, measured in pairs:
        _describe(entry, measured, models, bases)
    for number in range(rounds + 1):
        report_progress("warm-up" if number == 0 else f"round {number} of {rounds}")
        # Contestants in the inner loop: two speeds that are compared were measured within moments.
        for kind in KINDS:
            for entry, measured in pairs:
                seconds = {
                    depth: _time_once(entry, models[entry.name, depth], bases, kind, precision)
                    for depth in measured.timed_depths
                }
                if number:  # the warm-up compiles kernels and fills the allocator's pool
                    measured.seconds[kind].append(measured.whole(seconds))
    return report


def plan(entries: list[Contestant], bases: Tensor, precision: str, room: int) -> list[Measurement]:
    """Choose the depths to time: all layers, or two smaller numbers of layers where the whole does not fit.

    The weights of all contestants are in memory at once; gradients and saved activations of one at a time.

    Args:
        entries: The contestants.
        bases: Their input.
        precision: "fp32" or "bf16".
        room: Bytes that may be used.

    Raises:
        ConfigError: A contestant does not fit with two layers.
    """
    probes = [[_count_bytes(entry, depth, bases, precision) for depth in (1, 2)] for entry in entries]

    def needed(probe: list[NDArray[np.int64]], depth: int) -> NDArray[np.int64]:
        """Bytes of the weights and bytes saved, of any number of layers: they are alike."""
        return probe[0] + (probe[1] - probe[0]) * (depth - 1)

    left = room - sum(needed(probe, entry.depth)[0] for entry, probe in zip(entries, probes, strict=True))
    found = []
    for entry, probe in zip(entries, probes, strict=True):
        depth = entry.depth
        while depth > 2 and needed(probe, depth).sum() > left:
            depth -= 1
        if (most := needed(probe, depth).sum()) > left:
            raise ConfigError(
                f"{entry.name} needs {most / 1e9:.1f} GB for a backward pass of {depth} layers over "
                f"{bases.shape[1]:,} bases, beside the weights of all models {left / 1e9:.1f} GB are left; take fewer "
                "--bases"
            )
        found.append(Measurement(entry.name, entry.depth, (depth,) if depth == entry.depth else (depth // 2, depth)))
    return found


def _count_bytes(entry: Contestant, depth: int, bases: Tensor, precision: str) -> NDArray[np.int64]:
    """Bytes of the weights and bytes saved for the backward pass of so many layers, counted on the CPU."""
    # On the CPU: an attempt on a GPU could run out of memory. Other devices save as many bytes, or a few less.
    bases, model = bases.cpu(), entry.build(depth).eval()
    own = {parameter.data_ptr(): parameter.nbytes for parameter in model.parameters()}
    storages: dict[int, int] = {}  # by address: several saved tensors can be views of one storage

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _autocast(bases, precision):
        logits = entry.logits(model, bases)  # kept alive: a freed address could be given to another storage
    kept = sum(size for place, size in storages.items() if place not in own)
    del logits
    return np.array([sum(own.values()), kept])


def available_memory(device: torch.device) -> int:
    """Free bytes of a device; of a CPU the less of the system's free bytes and the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return min(free, limit - used)


def _describe(
    entry: Contestant, measured: Measurement, models: Mapping[tuple[str, int], nn.Module], bases: Tensor
) -> None:
    """Fill in parameters, operations per base and chunk ratios."""
    parameters, flops = {}, {}
    for depth in measured.timed_depths:
        model = models[entry.name, depth]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            entry.logits(model, bases)
        flops[depth] = float(counter.get_total_flops())
        parameters[depth] = float(sum(parameter.numel() for parameter in model.parameters()))
        if isinstance(model, HNetNTV2ForMaskedLM):
            with torch.no_grad():
                stages = model.model.chunk(bases)
            measured.ratios = tuple(float(stage.achieved_ratio) for stage in stages)
    measured.num_parameters = round(measured.whole(parameters))
    measured.megaflops_per_base = measured.whole(flops) / bases.shape[1] / 1e6


def _autocast(bases: Tensor, precision: str):
    return torch.autocast(bases.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _time_once(entry: Contestant, model: nn.Module, bases: Tensor, kind: str, precision: str) -> float:
    _synchronize(bases.device)  # a GPU's call returns before its work is done
    start = time.perf_counter()
    with torch.set_grad_enabled(kind == "step"), _autocast(bases, precision):
        logits = entry.logits(model, bases)
        if kind == "step":
            logits.float().square().mean().backward()
    _synchronize(bases.device)
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)  # room for the next one's gradients
    return seconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
