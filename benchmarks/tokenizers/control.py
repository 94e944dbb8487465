"""Train one small model per chunker and language, and measure bits, boundaries against the truth, and ratios."""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hnet_ntv2.chunkers import FixedChunker
from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.conversion.calibrate import calibrate_routers
from hnet_ntv2.levels import BoundaryReason, Level, final_boundaries
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.storage import open_text

from .languages import LANGUAGES, Rows, sample

_ROWS = 24
_TEST_BATCHES = 16
_TEST_SEED = 1 << 30


class Oracle(FixedChunker):
    """Cuts where the language says; stage 1 adds the middle of each ideal chunk."""

    truth: torch.Tensor

    def __init__(self, inner: Any, is_outer: bool):
        super().__init__(inner.limits, 0.5)
        self.is_outer = is_outer

    def wanted(self, level: Level) -> torch.Tensor:
        truth = self.truth
        if self.is_outer:
            # Three bases behind each ideal boundary, unless another one is near.
            middle = nn.functional.pad(truth[:, :-3], (3, 0))
            near = nn.functional.max_pool1d(nn.functional.pad(truth.float(), (1, 1))[:, None], 3, 1)[:, 0] > 0
            truth = truth | (middle & ~near)
        return truth.gather(1, level.first_base)


def build(chunker: str, pooling: str, seed: int, changes: dict[str, Any]) -> HNetNTV2ForMaskedLM:
    torch.manual_seed(seed)
    settings = {
        "d_model": 64, "n_head": 4, "intermediate_size": 128, "n_main_layer": 4, "window": 32, "kmer_size": 6,
        "target_ratio_stage1": 0.3, "use_anchors": False, "chunk_pooling": pooling,
        "chunker": "none" if chunker == "oracle" else chunker,
    }  # fmt: skip
    model = HNetNTV2ForMaskedLM(HNetNTV2Config(**(settings | changes)))
    if chunker == "oracle":
        for number, stage in enumerate(model.model.stages):
            stage.router = Oracle(stage.router, number == 0)
    return model


def unmasked(rows: Rows) -> torch.Tensor:
    """The bases of a batch without masks."""
    return torch.where(rows.labels == -100, rows.input_ids, rows.labels)


def show_truth(model: HNetNTV2ForMaskedLM, truth: torch.Tensor) -> None:
    for stage in model.model.stages:
        if isinstance(stage.router, Oracle):
            stage.router.truth = truth


def run(language: str, chunker: str, pooling: str, seed: int, steps: int, rate: float, changes: dict[str, Any]) -> dict:
    model = build(chunker, pooling, seed, changes)
    if chunker in ("learned", "shuffled"):
        rows = sample(language, 32, seed=5)
        calibrate_routers(model.model, [unmasked(rows)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    )
    curve, begin = [], time.process_time()
    for step in range(steps):
        model.train()
        rows = sample(language, _ROWS, seed=seed * 1_000_003 + step)
        show_truth(model, rows.truth)
        output = model(rows.input_ids, labels=rows.labels, only_targets=True)
        optimizer.zero_grad()
        output.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(steps // 6, 1) == 0:
            curve.append({"step": step + 1} | test(model, language, batches=3))
    return {
        "language": language, "chunker": chunker, "pooling": pooling, "seed": seed, "steps": steps, "rate": rate,
        "changes": changes, "cpu_seconds": time.process_time() - begin, "curve": curve,
        "final": test(model, language, _TEST_BATCHES),
    }  # fmt: skip


@torch.no_grad()
def test(model: HNetNTV2ForMaskedLM, language: str, batches: int) -> dict[str, Any]:
    """Bits per masked base; chunks per base; precision and recall of final boundaries against the truth (no masks)."""
    model.eval()
    bits, ratios, hits, found, there, cap, bounds = [], [], 0, 0, 0, 0, 0
    for number in range(batches):
        rows = sample(language, _ROWS, seed=_TEST_SEED + number)
        show_truth(model, rows.truth)
        bits.append(
            float(model(rows.input_ids, labels=rows.labels, only_targets=True, strands="forward").task_loss)
            / math.log(2)
        )
        stages = model.model.chunk(unmasked(rows))
        ratios.append([float(stage.achieved_ratio) for stage in stages])
        cuts = final_boundaries(stages)
        hits += int((cuts & rows.truth)[:, 1:].sum())
        found += int(cuts[:, 1:].sum())
        there += int(rows.truth[:, 1:].sum())
        last = stages[-1]
        cap += int((last.reason == BoundaryReason.CAP.value).sum())
        bounds += int(last.is_boundary.sum())
    return {
        "bits": sum(bits) / batches,
        "bits_of_batches": bits,
        "ratios": torch.tensor(ratios).mean(0).tolist(),
        "precision": hits / max(found, 1),
        "recall": hits / max(there, 1),
        "chunks_per_base": found / (batches * _ROWS * 191),
        "truth_per_base": there / (batches * _ROWS * 191),
        "cap_share": cap / max(bounds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder; one file per run; runs that are there are not done again")
    parser.add_argument("--run", action="append", required=True, help="LANGUAGE:CHUNKER:POOLING:SEED[:name=value...]")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=2e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for text in arguments.run:
        language, chunker, pooling, seed, *changes = text.split(":")
        assert language in LANGUAGES
        path = arguments.output / f"{text.replace(':', '-')}-{arguments.steps}.json"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {name: json.loads(value) for name, value in (change.split("=") for change in changes)}
        result = run(language, chunker, pooling, int(seed), arguments.steps, arguments.rate, values)
        with open_text(path) as file:
            file.write(json.dumps(result, indent=1))
        final = result["final"]
        shown = ("bits", "chunks_per_base", "truth_per_base", "precision", "recall", "cap_share")
        print(text, *(f"{name} {final[name]:.3f}" for name in shown), f"{result['cpu_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
