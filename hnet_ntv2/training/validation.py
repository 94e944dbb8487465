"""One pass over the validation windows: bits on [MASK] targets with and without anchors, ratios without masks."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..measuring import (
    Reduce,
    Sums,
    add_sums,
    chunk_sums,
    length_metrics,
    length_sums,
    reduce_sums,
    stage_metrics,
    target_metrics,
    target_sums,
    unmasked,
)
from ..outputs import HNetNTV2MaskedLMOutput
from .settings import ValidationSettings

Batch = Mapping[str, torch.Tensor]
Forward = Callable[..., HNetNTV2MaskedLMOutput]

MASK_FREE = "mask_free"
ON_GRID = "on_grid"


class ValidationRun:
    """Adds up batches under every setting that is reported, then makes the report.

    ``bits``, ``accuracy`` and the ratios without a suffix belong to the model's own anchor setting: inference uses it,
    and the best checkpoint is chosen by it. Bits count only targets shown as [MASK].
    """

    def __init__(self, settings: ValidationSettings, config: HNetNTV2Config):
        self.settings = settings
        self.config = config
        self.anchor_settings = sorted({config.use_anchors, *settings.anchors})
        self._sums: dict[str, Sums] = {}

    def add(self, batch: Batch, forward: Forward) -> None:
        """Add one batch; ``forward(batch, **options)`` runs the model in evaluation mode."""
        # Negative numbers: windows that only fill up a batch. They have no targets, but their chunks would be counted.
        rows = batch["window_index"] >= 0 if "window_index" in batch else None
        options: dict[str, Any] = {} if self.settings.strands is None else {"strands": self.settings.strands}
        for anchors in self.anchor_settings:
            output = forward(batch, anchors=anchors, **options)
            assert output.stages is not None
            self._add(_name(anchors), {**self._target_sums(output, batch), **chunk_sums(output.stages, rows)})
        if "grid_input_ids" in batch:
            view = {**batch, "input_ids": batch["grid_input_ids"], "labels": batch["grid_labels"]}
            # Anchors off: this view is compared with the source, which has the grid's boundaries only.
            output = forward(view, on_grid=True, anchors=False, **options)
            self._add(ON_GRID, self._target_sums(output, view))
        if self.settings.mask_free:
            # One strand: the reverse strand's chunks are not measured.
            output = forward({**batch, "input_ids": unmasked(batch)}, anchors=False, strands="forward")
            assert output.stages is not None
            self._add(MASK_FREE, {**chunk_sums(output.stages, rows), **length_sums(output.stages, rows)})

    def report(self, reduce: Reduce) -> dict[str, float]:
        """Metrics by name, after ``reduce`` has summed a tensor over all ranks."""
        sums = {setting: reduce_sums(values, reduce) for setting, values in self._sums.items()}
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
        if MASK_FREE in sums:
            values = sums[MASK_FREE]
            metrics = {**stage_metrics(values, self.config.num_stages), **length_metrics(values["chunk_lengths"])}
            report.update({f"{MASK_FREE}/{name}": value for name, value in metrics.items()})
        return report

    def _target_sums(self, output: HNetNTV2MaskedLMOutput, batch: Batch) -> Sums:
        assert output.logits is not None
        # A target shown as itself could be copied, one shown as another letter misleads: only [MASK] is counted.
        is_shown_masked = batch["input_ids"] == self.config.mask_token_id
        is_unique = is_shown_masked & ~batch["is_repeat"] if "is_repeat" in batch else is_shown_masked
        sums = target_sums(output.logits, batch["labels"], is_shown_masked, "masked")
        return {**sums, **target_sums(output.logits, batch["labels"], is_unique, "unique")}

    def _add(self, setting: str, sums: Sums) -> None:
        self._sums[setting] = add_sums(self._sums.get(setting), sums)


def _name(anchors: bool) -> str:
    return "anchors_on" if anchors else "anchors_off"
