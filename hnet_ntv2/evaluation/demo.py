"""Say how good a pre-trained model is: bits beside baselines on the same masked bases, chunk ratios, one cut window."""

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
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..storage import appearing_file, open_text
from ..vocabulary import BASE_BITS, A, T
from .chunk_text import chunk_text, first_bases
from .context_counts import ContextCounts, composition_bits
from .curves import draw_curves, read_history

MOST_COUNTED_BASES = 16 * 2**20
CONTEXTS = (2, 6)


@dataclass(frozen=True)
class ChunkRatio:
    """Chunks per position of one stage.

    Attributes:
        target: What the ratio loss aims at.
        masked: Achieved on the validation windows as the loss sees them.
        mask_free: Achieved on the same windows without masks, as a user will see them.
    """

    target: float
    masked: float
    mask_free: float


@dataclass(frozen=True)
class Summary:
    """What a run ends with.

    Attributes:
        bits: Validation bits per masked base, by predictor; the model last.
        num_targets: Masked bases that the bits are a mean of.
        num_windows: Validation windows.
        num_parameters: Of the model.
        num_training_bases: Training bases that the baselines were fitted on.
        ratios: Per stage, outermost first.
        chunk_lengths: Bases per final chunk without masks: mean, median, 95th percentile, longest.
        window: Where the window of ``chunks`` lies.
        chunks: One validation window cut into its chunks.
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

    Every bit is taken on bases shown as [MASK], the same ones for each predictor; the model averages both strands if
    its configuration says so. Writes ``summary.json`` and, with a history, ``curves.png`` into ``output_dir``.

    Args:
        model: The trained model; its mode is put back afterwards.
        datamodule: The run's data.
        output_dir: Folder to write to.
        history: The run's logs as CSV files, by "train" and "validation".
        paths: Further files of the run to name in the summary.

    Raises:
        DataError: if no validation window has a target.
        ConfigError: if ``output_dir`` cannot be written.
    """
    batches = [arrays for arrays in map(_as_arrays, datamodule.val_dataloader()) if len(arrays[0])]
    training, num_training_bases = training_bases(datamodule)
    bits = baseline_bits(training, batches, datamodule.mask.span)
    measured = _measure(model, batches)
    bits[f"HNet-NTv2, {_millions(model)} parameters"] = measured.bits
    window, bases = _first_window(datamodule)
    chunks = chunk_text(bases, _segment(model, bases[None]))
    paths = {**(paths or {}), "summary": output_dir / "summary.json"}
    if history is not None:
        paths["curves"] = output_dir / "curves.png"
        with appearing_file(paths["curves"]) as image:
            _draw(history, image, model, bits)
    summary = Summary(
        bits=bits,
        num_targets=sum(int((labels >= 0).sum()) for _, labels in batches),
        num_windows=sum(len(labels) for _, labels in batches),
        num_parameters=model.num_parameters(),
        num_training_bases=num_training_bases,
        ratios=measured.ratios,
        chunk_lengths=measured.chunk_lengths,
        window=window,
        chunks=chunks,
        paths={name: str(path) for name, path in paths.items()},
    )
    with open_text(paths["summary"]) as file:
        file.write(json.dumps(asdict(summary), indent=2) + "\n")
    return summary


def training_bases(datamodule: HG38DataModule, most: int = MOST_COUNTED_BASES) -> tuple[list[NDArray[np.uint8]], int]:
    """Character ids of the training intervals, or of pieces spread evenly over them where that is over ``most`` bases.

    Returns:
        The stretches and their number of bases.
    """
    intervals: Sequence[Interval] = datamodule.split_intervals("train")
    total = sum(len(interval) for interval in intervals)
    step = max(1, math.ceil(total / most))
    if step == 1:
        stretches = [datamodule.genome.read(interval) & np.uint8(BASE_BITS) for interval in intervals]
    else:
        pieces = [piece for interval in intervals for piece in _cut(interval, most // 64)]
        stretches = [datamodule.genome.read(piece) & np.uint8(BASE_BITS) for piece in pieces[::step]]
    return stretches, sum(len(stretch) for stretch in stretches)


def baseline_bits(
    training: Sequence[NDArray[np.uint8]], batches: Sequence[tuple[NDArray, NDArray]], span: int
) -> dict[str, float]:
    """Mean bits per masked base of predictors that only count, by name.

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


@dataclass(frozen=True)
class _Measured:
    bits: float
    ratios: tuple[ChunkRatio, ...]
    chunk_lengths: dict[str, float]


def _measure(model: HNetNTV2ForMaskedLM, batches: Sequence[tuple[NDArray, NDArray]]) -> _Measured:
    """One pass over the validation windows with their masks, and one without for the chunks alone."""
    nats, num_targets = 0.0, 0
    counts = {"masked": np.zeros((model.config.num_stages, 2)), "mask_free": np.zeros((model.config.num_stages, 2))}
    lengths: list[NDArray[np.int64]] = []
    for ids, labels in batches:
        output = _run(model, ids)
        is_target = torch.from_numpy(labels >= 0).to(output.logits.device)
        letters = output.logits[is_target][:, A : T + 1].float().log_softmax(-1)
        target = torch.from_numpy(labels[labels >= 0].astype(np.int64) - A).to(letters.device)
        nats -= float(letters.gather(1, target[:, None]).double().sum())
        num_targets += len(target)
        counts["masked"] += _count_chunks(output.stages)
        clean = np.where(labels >= 0, labels, ids).astype(np.uint8)
        stages = _segment(model, clean)
        counts["mask_free"] += _count_chunks(stages)
        for row in range(len(clean)):
            ends = [*first_bases(stages[-1:], row)[0], int(stages[0].is_valid[row].sum())]
            lengths.append(np.diff(ends))
    achieved = {name: chunks[:, 0] / chunks[:, 1] for name, chunks in counts.items()}
    ratios = zip(model.config.target_ratios, achieved["masked"], achieved["mask_free"], strict=True)
    return _Measured(
        nats / num_targets / math.log(2),
        tuple(ChunkRatio(target, float(masked), float(free)) for target, masked, free in ratios),
        _describe_lengths(np.concatenate(lengths)),
    )


def _run(model: HNetNTV2ForMaskedLM, ids: NDArray, **options: Any) -> Any:
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        output = model(torch.from_numpy(ids).to(model.device), **options)
    model.train(was_training)
    return output


def _segment(model: HNetNTV2ForMaskedLM, ids: NDArray) -> Any:
    return _run(model, ids, strands="forward").stages


def _count_chunks(stages: Any) -> NDArray[np.float64]:
    """Boundaries and positions of each stage, [stages, 2]."""
    return np.array([[float((s.is_boundary & s.is_valid).sum()), float(s.is_valid.sum())] for s in stages])


def _describe_lengths(lengths: NDArray[np.int64]) -> dict[str, float]:
    return {
        "mean": float(lengths.mean()),
        "median": float(np.median(lengths)),
        "95 %": float(np.percentile(lengths, 95)),
        "longest": float(lengths.max()),
    }


def _first_window(datamodule: HG38DataModule) -> tuple[str, NDArray[np.uint8]]:
    """Place and ids of the first validation window."""
    index = datamodule.window_index("valid")
    start = int(index.fixed(index.evenly_spread(datamodule.valid_windows)[:1]).start[0])
    genome = datamodule.genome
    contig = max((offset, name) for name, offset in genome.offsets.items() if offset <= start)[1]
    first = start - genome.offsets[contig]
    window = Interval(contig, first, first + index.length)
    return str(window), genome.read(window) & np.uint8(BASE_BITS)


def _cut(interval: Interval, length: int) -> list[Interval]:
    starts = range(interval.start, interval.end, length)
    return [Interval(interval.contig, start, min(start + length, interval.end)) for start in starts]


def _as_arrays(batch: Mapping[str, Any]) -> tuple[NDArray, NDArray]:
    """Ids and labels of the batch's windows, without those that only fill it up."""
    is_real = batch["window_index"] >= 0
    return batch["input_ids"][is_real].numpy(), batch["labels"][is_real].numpy()


def _millions(model: HNetNTV2ForMaskedLM) -> str:
    return f"{model.num_parameters() / 1e6:.3g} M"


def _draw(history: Mapping[str, Path], path: Path, model: HNetNTV2ForMaskedLM, bits: Mapping[str, float]) -> None:
    curves = {f"{part}/{name}": curve for part, file in history.items() for name, curve in read_history(file).items()}
    ratios = {}
    for stage in range(1, model.config.num_stages + 1):
        ratios[f"train/stage{stage}/ratio"] = f"stage {stage}, training"
        ratios[f"validation/mask_free/stage{stage}/ratio"] = f"stage {stage}, validation without masks"
    draw_curves(
        curves,
        path,
        bits={"train/bits": "training", "validation/bits": "validation"},
        ratios=ratios,
        levels={name: level for name, level in bits.items() if "HNet" not in name},
        targets=model.config.target_ratios,
    )
