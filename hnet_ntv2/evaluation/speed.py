"""Bases per second of the default model beside NTv2-500M and a single-nucleotide transformer, measured interleaved.

Every contestant reads the same random bases, one strand, one row. A deep contestant may be measured at two smaller
depths and extrapolated along its repeated layers, which is exact up to noise because they are all alike.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..backbone import LocalLayers
from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..configuration_ntv2 import NTv2Config
from ..conversion.calibrate import calibrate_routers
from ..errors import ConfigError
from ..kmers import NUM_SOURCE_SPECIALS, SOURCE_CLS
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..modeling_ntv2 import NTv2ForMaskedLM
from ..shapes import Int, Tensor

_MATRIX_SIZE = 2048


@dataclass(frozen=True)
class Contestant:
    """A network whose repeated layers can be fewer than it has in full.

    Attributes:
        name: As printed.
        depth: Repeated layers in full.
        build: Make the network with so many repeated layers.
        logits: Run it on [1, bases] character ids and return its logits.
        prepare: Called once with a network that was built, before it is timed.
    """

    name: str
    depth: int
    build: Callable[[int], nn.Module]
    logits: Callable[[nn.Module, Tensor], Tensor]
    prepare: Callable[[nn.Module], object] = lambda model: None


@dataclass
class Measurement:
    """Medians of one contestant.

    Attributes:
        name: As printed.
        num_parameters: At full depth.
        depths: Depths that were timed; one means the full network.
        megaflops_per_base: Forward, counted from the operations that ran, scaled to full depth.
        forward: Bases per second of a forward pass.
        forward_backward: Bases per second of forward and backward.
        forward_share: Forward's share of the measured matrix-product rate.
    """

    name: str
    num_parameters: int
    depths: dict[str, tuple[int, ...]]
    megaflops_per_base: float
    forward: float
    forward_backward: float
    forward_share: float


@dataclass
class SpeedReport:
    """Everything that ``hnet-ntv2 bench`` prints.

    Attributes:
        device: What it ran on.
        precision: "fp32" or "bf16".
        num_bases: Bases per row.
        rounds: Rounds whose median is given.
        matrix_gigaflops: Median rate of a square matrix product between the contestants.
        achieved_ratios: Chunks per position that the default model's routers made, per stage.
        measurements: One per contestant.
    """

    device: str
    precision: str
    num_bases: int
    rounds: int
    matrix_gigaflops: float
    achieved_ratios: tuple[float, ...] = ()
    measurements: list[Measurement] = field(default_factory=list)


class _SingleNucleotideTransformer(nn.Module):
    """Windowed layers at one token per base: what a user would build without chunks."""

    def __init__(self, num_layers: int, config: HNetNTV2Config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = LocalLayers(
            num_layers,
            config.d_model,
            config.n_head,
            config.intermediate_size,
            config.window,
            config.layer_norm_eps,
        )
        self.head = nn.Linear(config.d_model, config.vocab_size)

    def forward(self, input_ids: Int[Tensor, "batch length"]) -> Tensor:
        hidden = self.embedding(input_ids)
        return self.head(self.layers(hidden, torch.ones_like(input_ids, dtype=torch.bool)))


def contestants(config: HNetNTV2Config, source: NTv2Config, num_windowed: int = 24) -> list[Contestant]:
    """The model, its source on k-mers, and a single-nucleotide transformer of similar depth."""

    def build_model(depth: int) -> nn.Module:
        shallow = copy.deepcopy(config)
        shallow.n_main_layer = depth
        # On random letters the cap would add boundaries; without it the calibrated ratios are the targets.
        shallow.max_chunk_length = None
        return HNetNTV2ForMaskedLM(shallow)

    def calibrate(model: nn.Module) -> None:
        assert isinstance(model, HNetNTV2ForMaskedLM)
        calibrate_routers(model.model, [random_bases(2048, seed=1)])

    def build_source(depth: int) -> nn.Module:
        shallow = copy.deepcopy(source)
        shallow.num_hidden_layers = depth
        return NTv2ForMaskedLM(shallow)

    def source_logits(model: nn.Module, bases: Tensor) -> Tensor:
        return model(kmer_tokens(bases, config.kmer_size)).logits

    return [
        Contestant("HNet-NTv2", config.n_main_layer, build_model, _forward_strand_logits, calibrate),
        Contestant("NTv2 on k-mers", source.num_hidden_layers, build_source, source_logits),
        Contestant(
            "single nucleotides, windowed",
            num_windowed,
            lambda depth: _SingleNucleotideTransformer(depth, config),
            lambda m, ids: m(ids),
        ),
    ]


def _forward_strand_logits(model: nn.Module, bases: Tensor) -> Tensor:
    return model(bases, strands="forward").logits


def random_bases(length: int, seed: int = 0) -> Int[Tensor, "1 length"]:
    """Uniform A, C, G, T."""
    return torch.randint(7, 11, (1, length), generator=torch.Generator().manual_seed(seed))


def kmer_tokens(bases: Int[Tensor, "1 length"], k: int) -> Int[Tensor, "1 tokens"]:
    """NTv2's tokens of clean bases, ``<cls>`` in front; the remainder is left out."""
    digit = bases.new_tensor([0, 2, 3, 1])[bases - 7]
    places = 4 ** torch.arange(k - 1, -1, -1, device=bases.device)
    whole = digit[:, : bases.shape[1] // k * k].reshape(1, -1, k)
    tokens = NUM_SOURCE_SPECIALS + (whole * places).sum(-1)
    return torch.cat([tokens.new_full((1, 1), SOURCE_CLS), tokens], dim=1)


def measure_speed(
    entries: list[Contestant],
    *,
    num_bases: int,
    rounds: int,
    device: torch.device,
    precision: str,
    forward_share: float,
    backward_share: float,
    report_progress: Callable[[str], None],
) -> SpeedReport:
    """Time all contestants round after round, so that a machine that slows down slows them all.

    Args:
        entries: Who runs.
        num_bases: Bases in the row.
        rounds: Rounds after one warm-up.
        device: Where.
        precision: "fp32" or "bf16" (autocast).
        forward_share: Share of the repeated layers that the forward pass is timed with; 1 for all.
        backward_share: The same for forward and backward.
        report_progress: Called with a line of text now and then.
    """
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"precision is {precision!r}; choose fp32 or bf16")
    bases = random_bases(num_bases).to(device)
    rates: list[float] = []
    timings = {entry.name: {"forward": _Timing(entry, forward_share), "backward": _Timing(entry, backward_share)}
               for entry in entries}  # fmt: skip
    report = SpeedReport(_device_name(device), precision, num_bases, rounds, 0.0)
    models: dict[tuple[str, int], nn.Module] = {}
    for kind in ("forward", "backward"):
        models = _build_all(entries, {name: timing[kind].depths for name, timing in timings.items()}, device)
        for round_number in range(rounds + 1):
            report_progress(f"{kind}, " + ("warm-up" if round_number == 0 else f"round {round_number} of {rounds}"))
            rates.append(_matrix_rate(device, precision))
            for entry in entries:
                for depth in timings[entry.name][kind].depths:
                    seconds = _time_once(entry, models[entry.name, depth], bases, kind == "backward", precision)
                    if round_number:
                        timings[entry.name][kind].seconds.setdefault(depth, []).append(seconds)
        if kind == "forward":
            report.achieved_ratios = _achieved_ratios(models, entries[0], bases)
            flops = {entry.name: _count_flops(entry, models, timings[entry.name][kind], bases) for entry in entries}
        models.clear()
        for entry in entries:  # told at once: whoever stops here has this part
            rate = num_bases / timings[entry.name][kind].full_depth_seconds()
            report_progress(f"  {entry.name}: {kind} {rate:,.0f} bases/s")
    report.matrix_gigaflops = statistics.median(rates) / 1e9
    for entry in entries:
        forward, backward = (timings[entry.name][kind].full_depth_seconds() for kind in ("forward", "backward"))
        report.measurements.append(
            Measurement(
                entry.name,
                _count_parameters(entry),
                {kind: timing.depths for kind, timing in timings[entry.name].items()},
                flops[entry.name] / num_bases / 1e6,
                num_bases / forward,
                num_bases / backward,
                flops[entry.name] / forward / (report.matrix_gigaflops * 1e9),
            )
        )
    return report


def _build_all(
    entries: list[Contestant], depths: dict[str, tuple[int, ...]], device: torch.device
) -> dict[tuple[str, int], nn.Module]:
    models = {}
    for entry in entries:
        for depth in depths[entry.name]:
            model = entry.build(depth).eval()
            entry.prepare(model)
            models[entry.name, depth] = model.to(device)
    return models


class _Timing:
    """Seconds per depth of one contestant."""

    def __init__(self, entry: Contestant, share: float):
        self.full = entry.depth
        deep = max(2, round(entry.depth * share))
        self.depths = (entry.depth,) if share >= 1 or entry.depth <= 2 else (max(1, deep // 2), deep)
        self.seconds: dict[int, list[float]] = {}

    def full_depth_seconds(self) -> float:
        return self.to_full_depth({depth: statistics.median(values) for depth, values in self.seconds.items()})

    def to_full_depth(self, values: dict[int, float]) -> float:
        """Extrapolate along the repeated layers."""
        if len(self.depths) == 1:
            return values[self.depths[0]]
        shallow, deep = self.depths
        per_layer = (values[deep] - values[shallow]) / (deep - shallow)
        return values[deep] + per_layer * (self.full - deep)


@contextmanager
def _autocast(device: torch.device, precision: str) -> Iterator[None]:
    with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
        yield


def _time_once(entry: Contestant, model: nn.Module, bases: Tensor, backward: bool, precision: str) -> float:
    model.zero_grad(set_to_none=True)
    _synchronize(bases.device)
    start = time.perf_counter()
    with torch.set_grad_enabled(backward), _autocast(bases.device, precision):
        logits = entry.logits(model, bases)
        if backward:
            logits.float().square().mean().backward()
    _synchronize(bases.device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _matrix_rate(device: torch.device, precision: str) -> float:
    """FLOPs per second of a square matrix product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(_MATRIX_SIZE, _MATRIX_SIZE, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(3):
        _synchronize(device)
        start = time.perf_counter()
        left @ right
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * _MATRIX_SIZE**3 / best


def _count_flops(entry: Contestant, models: dict[tuple[str, int], nn.Module], timing: _Timing, bases: Tensor) -> float:
    counted = {}
    for depth in timing.depths:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            entry.logits(models[entry.name, depth], bases)
        counted[depth] = float(counter.get_total_flops())
    return timing.to_full_depth(counted)


def _count_parameters(entry: Contestant) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in entry.build(entry.depth).parameters())


def _achieved_ratios(models: dict[tuple[str, int], nn.Module], entry: Contestant, bases: Tensor) -> tuple[float, ...]:
    model = next(model for (name, _), model in models.items() if name == entry.name)
    with torch.no_grad():
        stages = model(bases, strands="forward").stages
    return tuple(float(stage.is_boundary.sum() / stage.is_valid.sum()) for stage in stages)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
