"""One pass over the validation windows: bits on [MASK] targets with and without anchors, ratios without masks."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..outputs import HNetNTV2MaskedLMOutput
from .metrics import (
    Reduce,
    Sums,
    add_sums,
    chunk_length_histogram,
    chunk_sums,
    histogram_metrics,
    reduced,
    stage_metrics,
    target_metrics,
    target_sums,
    unmasked,
)
from .settings import ValidationSettings

Batch = Mapping[str, torch.Tensor]
Forward = Callable[..., HNetNTV2MaskedLMOutput]

MASK_FREE = "mask_free"
ON_GRID = "on_grid"


class ValidationRun:
    """Adds up batches under every setting that is reported, then makes the report.

    ``bits``, ``accuracy`` and the ratios without a suffix belong to the model's own anchor setting, the one that
    inference uses and that the best checkpoint is chosen by. Bits count targets shown as [MASK] only.
    """

    def __init__(self, settings: ValidationSettings, config: HNetNTV2Config):
        self.settings = settings
        self.config = config
        self.anchor_settings = sorted({config.use_anchors, *settings.anchors})
        self._sums: dict[str, Sums] = {}
        self._histogram: torch.Tensor | None = None

    def add(self, batch: Batch, forward: Forward) -> None:
        """Add one batch; ``forward(batch, **options)`` runs the model in evaluation mode."""
        # Filling that makes the ranks' shares equal has negative numbers.
        counts = batch["window_index"] >= 0 if "window_index" in batch else None
        options: dict[str, Any] = {} if self.settings.strands is None else {"strands": self.settings.strands}
        for anchors in self.anchor_settings:
            output = forward(batch, anchors=anchors, **options)
            self._add(_name(anchors), {**self._target_sums(output, batch), **chunk_sums(output, counts)})
        if "grid_input_ids" in batch:
            view = {**batch, "input_ids": batch["grid_input_ids"], "labels": batch["grid_labels"]}
            output = forward(view, on_grid=True, anchors=False, **options)
            self._add(ON_GRID, self._target_sums(output, view))
        if self.settings.mask_free:
            output = forward({**batch, "input_ids": unmasked(batch)}, anchors=False, strands="forward")
            self._add(MASK_FREE, chunk_sums(output, counts))
            histogram = chunk_length_histogram(output, counts)
            self._histogram = histogram if self._histogram is None else _add_padded(self._histogram, histogram)

    def report(self, reduce: Reduce) -> dict[str, float]:
        """Metrics by name, after ``reduce`` has summed a tensor over all ranks."""
        sums = {setting: reduced(values, reduce) for setting, values in self._sums.items()}
        report: dict[str, float] = {}
        for anchors in self.anchor_settings:
            values = sums[_name(anchors)]
            is_own = anchors == self.config.use_anchors
            for suffix in [f"_{_name(anchors)}", *([""] if is_own else [])]:
                report.update(target_metrics(values, "masked", suffix))
                report.update(target_metrics(values, "unique", f"_non_repeat{suffix}"))
            if is_own:
                report.update(stage_metrics(values, self.config.num_stages))
                report["targets"] = values["masked_count"]
        if ON_GRID in sums:
            report.update(target_metrics(sums[ON_GRID], "masked", f"_{ON_GRID}"))
        if self._histogram is not None:
            metrics = stage_metrics(sums[MASK_FREE], self.config.num_stages)
            metrics.update(histogram_metrics(reduce(self._histogram).cpu()))
            report.update({f"{MASK_FREE}/{name}": value for name, value in metrics.items()})
        return report

    def _target_sums(self, output: HNetNTV2MaskedLMOutput, batch: Batch) -> Sums:
        assert output.logits is not None
        is_shown_masked = batch["input_ids"] == self.config.mask_token_id
        is_unique = is_shown_masked & ~batch["is_repeat"] if "is_repeat" in batch else is_shown_masked
        sums = target_sums(output.logits, batch["labels"], is_shown_masked, "masked")
        return {**sums, **target_sums(output.logits, batch["labels"], is_unique, "unique")}

    def _add(self, setting: str, sums: Sums) -> None:
        self._sums[setting] = add_sums(self._sums.get(setting), sums)


def _name(anchors: bool) -> str:
    return "anchors_on" if anchors else "anchors_off"


def _add_padded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    size = max(len(left), len(right))
    return torch.nn.functional.pad(left, (0, size - len(left))) + torch.nn.functional.pad(right, (0, size - len(right)))
