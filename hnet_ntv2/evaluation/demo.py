"""Summarise a pre-trained model: bits beside baselines on the same masked bases, chunk ratios, one window in chunks."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.datamodule import HG38DataModule
from ..errors import DataError
from ..genome import Interval
from ..measuring import ValidationRun
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..storage import appearing_file, open_text
from ..vocabulary import BASE_BITS
from .chunk_text import chunk_text
from .context_counts import ContextCounts, composition_bits
from .curves import draw_curves, read_curves

Batch = Mapping[str, torch.Tensor]

# Context counts sort every span of both strands: 16 bytes of memory a base, several times over.
MOST_COUNTED_BASES = 16 * 2**20
CONTEXTS = (2, 6)


@dataclass(frozen=True)
class ChunkRatio:
    """Chunks per position of one stage.

    Attributes:
        target: Of the ratio loss.
        masked: Achieved on the validation windows with their masks, as in training.
        mask_free: Achieved on the same windows without masks, as in use.
    """

    target: float
    masked: float
    mask_free: float


@dataclass(frozen=True)
class Summary:
    """What ``hnet-ntv2 pretrain`` prints at its end.

    Attributes:
        bits: Validation bits per masked base, by predictor; the model last.
        num_targets: Masked bases behind each mean.
        num_windows: Validation windows.
        num_parameters: Of the model.
        num_training_bases: Training bases of the baselines.
        ratios: Per stage, outermost first.
        chunk_lengths: Bases per final chunk without masks: mean, median, 95th percentile, longest.
        window: Interval of the window in ``chunks``.
        chunks: One validation window with marks at its chunks.
        paths: Files of the run, by what they are.
    """

    bits: dict[str, float]
    num_targets: int
    num_windows: int
    num_parameters: int
    num_training_bases: int
    ratios: tuple[ChunkRatio, ...]
    chunk_lengths: dict[str, float]
    window: str
    chunks: str
    paths: dict[str, str]

    def render(self) -> str:
        """The summary as text for a terminal."""
        counted = f"{self.num_targets:,} masked bases in {self.num_windows} windows"
        lines = [f"Validation bits per base ({counted}; lower is better)"]
        lines += [f"  {name:<44}{bits:6.3f}" for name, bits in self.bits.items()]
        lines += ["", f"Chunks per position{'target':>24}{'masked':>10}{'no masks':>10}"]
        for number, ratio in enumerate(self.ratios, start=1):
            outer = "base" if number == 1 else f"stage-{number - 1} chunk"
            name = f"  stage {number}, per {outer}"
            lines.append(f"{name:<36}{ratio.target:>7.3f}{ratio.masked:>10.3f}{ratio.mask_free:>10.3f}")
        lengths = ", ".join(f"{name} {value:.3g}" for name, value in self.chunk_lengths.items())
        lines += [f"  bases per final chunk, no masks: {lengths}", ""]
        lines += [
            f"Validation window {self.window} (| begins a final chunk, · a chunk of stage 1 only)",
            self.chunks,
            "",
        ]
        width = max(map(len, self.paths)) + 2
        lines += ["Files", *(f"  {name:<{width}}{path}" for name, path in self.paths.items())]
        return "\n".join(lines)


def summarise(
    model: HNetNTV2ForMaskedLM,
    datamodule: HG38DataModule,
    output_dir: Path,
    history: Mapping[str, Path] | None = None,
    paths: Mapping[str, Path] | None = None,
) -> Summary:
    """Measure a model on the validation windows of a run, beside count tables fitted on its training bases.

    All bits are of the same bases, shown as [MASK]. The model averages both strands if its configuration says so.
    Writes ``summary.json`` and, with a history, ``curves.png`` into ``output_dir``.

    Args:
        model: The trained model; training or evaluation mode is restored afterwards.
        datamodule: The run's data.
        output_dir: Folder to write to.
        history: The run's logs as CSV files, by "train" and "validation".
        paths: Further files of the run to name in the summary.

    Raises:
        DataError: if no validation window has a target.
        ConfigError: if ``output_dir`` cannot be written.
    """
    batches = [batch for batch in map(_without_filling, datamodule.val_dataloader()) if len(batch["labels"])]
    arrays = [(batch["input_ids"].numpy(), batch["labels"].numpy()) for batch in batches]
    training, num_training_bases = training_bases(datamodule)
    bits = baseline_bits(training, arrays, datamodule.mask.span)
    model_bits, ratios, chunk_lengths = _measure(model, batches)
    bits[f"HNet-NTv2, {model.num_parameters() / 1e6:.3g} M parameters"] = model_bits
    window, bases = _first_window(datamodule)
    chunks = chunk_text(bases, _run(model, torch.from_numpy(bases[None]), strands="forward").stages)
    paths = {**(paths or {}), "summary": output_dir / "summary.json"}
    if history is not None:
        paths["curves"] = output_dir / "curves.png"
        with appearing_file(paths["curves"]) as image:
            _draw(history, image, model, bits)
    summary = Summary(
        bits=bits,
        num_targets=sum(int((labels >= 0).sum()) for _, labels in arrays),
        num_windows=sum(len(labels) for _, labels in arrays),
        num_parameters=model.num_parameters(),
        num_training_bases=num_training_bases,
        ratios=ratios,
        chunk_lengths=chunk_lengths,
        window=window,
        chunks=chunks,
        paths={name: str(path) for name, path in paths.items()},
    )
    with open_text(paths["summary"]) as file:
        file.write(json.dumps(asdict(summary), indent=2) + "\n")
    return summary


def training_bases(datamodule: HG38DataModule, most: int = MOST_COUNTED_BASES) -> tuple[list[NDArray[np.uint8]], int]:
    """Character ids of the training intervals, or of evenly spread pieces if they have more than ``most`` bases.

    Returns:
        The stretches and their number of bases.
    """
    intervals: Sequence[Interval] = datamodule.split_intervals("train")
    total = sum(len(interval) for interval in intervals)
    step = max(1, math.ceil(total / most))
    if step > 1:  # every step-th of some 64 x step pieces: a prefix would have the composition of one contig
        intervals = [piece for interval in intervals for piece in _cut(interval, most // 64)][::step]
    stretches = [datamodule.genome.read(interval) & np.uint8(BASE_BITS) for interval in intervals]
    return stretches, sum(len(stretch) for stretch in stretches)


def baseline_bits(
    training: Sequence[NDArray[np.uint8]], batches: Sequence[tuple[NDArray, NDArray]], span: int
) -> dict[str, float]:
    """Mean bits per masked base of predictors without a network, by name.

    Args:
        training: Stretches of training bases, as ids.
        batches: (ids as the model sees them, labels) of validation.
        span: Bases per masked span.

    Raises:
        DataError: if there is no target.
    """
    labels = np.concatenate([labels.reshape(-1) for _, labels in batches]) if batches else np.empty(0)
    if not (labels >= 0).any():
        raise DataError("the validation windows hold no masked base; nothing can be measured")
    bits = {"uniform guessing": 2.0, "base composition": float(composition_bits(training, labels).mean())}
    for k in CONTEXTS:
        table = ContextCounts.fit(training, k, span)
        costs = np.concatenate([table.bits_per_base(ids, labels) for ids, labels in batches])
        bits[f"context counts, {k} bases on each side"] = float(costs.mean())
    return bits


def _measure(
    model: HNetNTV2ForMaskedLM, batches: Sequence[Batch]
) -> tuple[float, tuple[ChunkRatio, ...], dict[str, float]]:
    """Bits per target, ratios and chunk lengths: one pass with masks, and one without for the chunks alone."""
    run = ValidationRun(model.config)
    for batch in batches:
        on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
        run.add(on_device, lambda shown, **options: _run(model, shown["input_ids"], **options))
    report = run.report()
    ratios = tuple(
        ChunkRatio(target, report[f"stage{number}/ratio"], report[f"mask_free/stage{number}/ratio"])
        for number, target in enumerate(model.config.target_ratios, start=1)
    )
    lengths = {
        "mean": report[f"mask_free/stage{model.config.num_stages}/chunk_length"],
        "median": report["mask_free/chunk_length_p50"],
        "95 %": report["mask_free/chunk_length_p95"],
        "longest": report["mask_free/chunk_length_max"],
    }
    return report["bits"], ratios, lengths


def _run(model: HNetNTV2ForMaskedLM, ids: torch.Tensor, **options: Any) -> Any:
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        output = model(ids.to(model.device), **options)
    model.train(was_training)
    return output


def _first_window(datamodule: HG38DataModule) -> tuple[str, NDArray[np.uint8]]:
    """Place and ids of the first validation window."""
    index = datamodule.window_index("valid")
    start = int(index.fixed(index.evenly_spread(datamodule.valid_windows)[:1]).start[0])
    genome = datamodule.genome
    # The index counts bases through the whole genome: the contig is the last one that begins at or before ``start``.
    contig = max((offset, name) for name, offset in genome.offsets.items() if offset <= start)[1]
    first = start - genome.offsets[contig]
    window = Interval(contig, first, first + index.length)
    return str(window), genome.read(window) & np.uint8(BASE_BITS)


def _cut(interval: Interval, length: int) -> list[Interval]:
    starts = range(interval.start, interval.end, length)
    return [Interval(interval.contig, start, min(start + length, interval.end)) for start in starts]


def _without_filling(batch: Batch) -> dict[str, torch.Tensor]:
    """Ids and labels of a batch's real windows."""
    # Negative numbers: windows that fill up the last batch. Their labels are empty, but their chunks would be counted.
    is_real = batch["window_index"] >= 0
    return {name: batch[name][is_real] for name in ("input_ids", "labels")}


def _draw(history: Mapping[str, Path], path: Path, model: HNetNTV2ForMaskedLM, bits: Mapping[str, float]) -> None:
    curves = {f"{part}/{name}": curve for part, file in history.items() for name, curve in read_curves(file).items()}
    ratios = {}
    for stage in range(1, model.config.num_stages + 1):
        ratios[f"train/stage{stage}/ratio"] = f"stage {stage}, training"
        ratios[f"validation/mask_free/stage{stage}/ratio"] = f"stage {stage}, validation without masks"
    draw_curves(
        curves,
        path,
        bits={"train/bits": "training", "validation/bits": "validation"},
        ratios=ratios,
        levels={name: level for name, level in bits.items() if "HNet" not in name},  # the model is a curve, not a level
        targets=model.config.target_ratios,
    )
