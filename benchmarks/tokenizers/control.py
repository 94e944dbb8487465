"""Train one small model per chunker and language, and measure bits, boundaries against the truth, and ratios."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.byte_pairs import in_place_of_minimizer, learn
from hnet_ntv2.chunkers import FixedChunker, PeakRouter
from hnet_ntv2.chunking import decide_boundaries
from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.conversion.calibrate import calibrate_routers
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.levels import BoundaryReason, Chunking, Level, final_boundaries
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM

from .languages import LANGUAGES, TEST_SEED, Rows, mask_chunks, replace_masks, sample

CHUNKERS = ("oracle", "ruler", "minimizer", "entropy", "byte_pairs", "learned", "peak", "budget", "shuffled", "none")
# Changes of a trial, but not of the model's config.
_NO_SETTINGS = ("masks", "noise", "replaced", "frozen_routers", "jitter", "no_skip")
# The chunker that the config names where the trial's own is none of its values.
_STAND_INS = {"oracle": "none", "byte_pairs": "minimizer", "budget": "peak"}
WINDOW = 32  # positions on each side that local layers see, unless a trial says otherwise


@dataclass(frozen=True)
class Setup:
    """What all runs of one size share.

    Attributes:
        width: Of the hidden states; heads have 16 coordinates.
        blocks: Of the trunk.
        rows: Of a batch.
        steps: Optimiser steps.
        rate: Peak of the learning rate.
        test_batches: Batches of the final measurement.
        device: "cpu" or "cuda".
    """

    width: int = 64
    blocks: int = 4
    rows: int = 24
    steps: int = 1500
    rate: float = 2e-3
    test_batches: int = 16
    device: str = "cpu"


class Trial(NamedTuple):
    """One run: a language, how it is chunked, the seed, and model settings that differ.

    Some are no settings of the model:

    - ``masks``: "own" masks whole chunks of the model's own instead of the language's ideal ones, so that no mask
      spoils a chunk.
    - ``noise``: this share of the bases is random (0.01).
    - ``replaced``: this share of the masked spans shows random bases instead of [MASK] in training, so that nothing is
      forced around them.
    - ``frozen_routers``: true leaves the routers as they were drawn, so that their scores learn nothing but what the
      embeddings do.
    - ``jitter``: spread of the noise on the scores of "peak" in training, so that other boundaries are tried out.
    - ``no_skip``: in this share of the steps the decoders get nothing but chunk vectors.
    """

    language: str
    chunker: str
    seed: int
    changes: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> "Trial":
        """Of LANGUAGE:CHUNKER:SEED[:name=value...], values as JSON.

        Raises:
            ConfigError: if it is not of that form or names what there is not.
        """
        try:
            language, chunker, seed, *changes = text.split(":")
            values = {name: json.loads(value) for name, value in (change.split("=") for change in changes)}
            trial = cls(language, chunker, int(seed), values)
        except ValueError as error:
            raise ConfigError(f"{text!r} is not LANGUAGE:CHUNKER:SEED[:name=value], as copy:peak:1 is") from error
        for value, known in ((language, LANGUAGES), (chunker, CHUNKERS)):
            if value not in known:
                raise ConfigError(f"{text!r}: there is no {value!r}; there are {', '.join(known)}")
        return trial

    def __str__(self) -> str:
        changes = [f"{name}={json.dumps(value)}" for name, value in self.changes.items()]
        return ":".join([self.language, self.chunker, str(self.seed), *changes])


class JitteredPeaks(PeakRouter):
    """Peaks of the score and some noise: decisions that are sampled, in training."""

    def __init__(self, inner: Any, spread: float):
        super().__init__(inner.query.in_features, inner.limits, 1 / inner.neighbours)
        self.load_state_dict(inner.state_dict())
        self.spread = spread

    def decide(self, dissimilarity: torch.Tensor, level: Level) -> Chunking:
        if self.training:
            dissimilarity = dissimilarity + self.spread * torch.randn_like(dissimilarity)
        return super().decide(dissimilarity, level)


class Budget(PeakRouter):
    """The greatest scores of a whole row are boundaries, as many as the target wants; p passes 1/2 at the last one.

    So a dense stretch of a row can have more chunks than a dull one, which peaks do not allow.
    """

    def __init__(self, inner: Any, target: float):
        super().__init__(inner.query.in_features, inner.limits, target)
        self.load_state_dict(inner.state_dict())
        self.target = target

    def decide(self, dissimilarity: torch.Tensor, level: Level) -> Chunking:
        score = nn.functional.pad(dissimilarity, (1, 0), value=1.0)
        open_scores = score.masked_fill(~level.is_valid, torch.nan)
        least = open_scores.nanquantile(1 - self.target, dim=1, keepdim=True)
        probability = torch.sigmoid(10.0 * (score - least)).masked_fill(~level.is_valid, 0.0)
        probability = torch.cat([torch.ones_like(probability[:, :1]), probability[:, 1:]], dim=1)
        return decide_boundaries(probability, level, self.limits)


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


def build(trial: Trial, setup: Setup) -> HNetNTV2ForMaskedLM:
    """The model of a trial, with random weights."""
    torch.manual_seed(trial.seed)
    settings = {
        "d_model": setup.width, "n_head": setup.width // 16, "intermediate_size": 2 * setup.width,
        "n_main_layer": setup.blocks, "window": WINDOW, "kmer_size": 6, "target_ratio_stage1": 0.3,
        # Anchors show whole k-mers beside a mask; these languages have nothing there that helps.
        "use_anchors": False, "chunker": _STAND_INS.get(trial.chunker, trial.chunker),
    }  # fmt: skip
    settings |= {name: value for name, value in trial.changes.items() if name not in _NO_SETTINGS}
    model = HNetNTV2ForMaskedLM(HNetNTV2Config(**settings))
    for number, stage in enumerate(model.model.stages):
        if trial.chunker == "oracle":
            stage.router = Oracle(stage.router, number == 0)
        elif trial.chunker == "budget":
            stage.router = Budget(stage.router, model.config.target_ratios[number])
        elif "jitter" in trial.changes:
            stage.router = JitteredPeaks(stage.router, trial.changes["jitter"])
    text = _text(trial) if model.config.counts_kmers else None
    calibrate_routers(model.model, [_sample(trial, 32, seed=5).bases], text)
    model.to(setup.device)  # pyright: ignore[reportArgumentType]  (transformers' annotation of ``to``)
    return model


def perform(trial: Trial, setup: Setup) -> dict[str, Any]:
    """Train and measure; the content of the run's file."""
    if trial.chunker == "byte_pairs":
        with in_place_of_minimizer(learn(_text(trial))):
            return _perform(trial, setup)
    return _perform(trial, setup)


def _text(trial: Trial) -> torch.Tensor:
    """Rows to count in, which tables of counts need more of than offsets do."""
    return _sample(trial, 2000, seed=5).bases


def _sample(trial: Trial, rows: int, seed: int) -> Rows:
    return sample(trial.language, rows, seed, trial.changes.get("noise", 0.01))


def _perform(trial: Trial, setup: Setup) -> dict[str, Any]:
    model = build(trial, setup)
    for router in model.model.routers:
        router.requires_grad_(not trial.changes.get("frozen_routers", False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=setup.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, setup.steps))
    curve, begin = [], time.process_time()
    for step in range(setup.steps):
        model.train()
        rows = _batch(model, trial, setup, seed=trial.seed * 1_000_003 + step)
        rows = replace_masks(rows, trial.changes.get("replaced", 0.0), step)
        optimizer.zero_grad()
        # Every 1 / share steps, so that no draw of the weights or of the texts is moved.
        share = trial.changes.get("no_skip", 0.0)
        with closed_skips(model, int((step + 1) * share) > int(step * share)):
            model(rows.input_ids, labels=rows.labels, only_targets=True).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(setup.steps // 6, 1) == 0:
            curve.append({"step": step + 1} | measure(model, trial, setup, batches=3))
    return {
        **trial._asdict(), "steps": setup.steps, "rate": setup.rate, "cpu_seconds": time.process_time() - begin,
        "curve": curve, "final": measure(model, trial, setup, setup.test_batches),
    }  # fmt: skip


@contextmanager
def closed_skips(model: HNetNTV2ForMaskedLM, are_closed: bool) -> Iterator[None]:
    """Within it decoders get the vectors of chunks alone, and nothing of the positions."""
    skips = [stage.upsampler.skip for stage in model.model.stages if are_closed]
    hooks = [skip.register_forward_hook(lambda *given: torch.zeros_like(given[-1])) for skip in skips]
    yield
    for hook in hooks:
        hook.remove()


def _share_of_rate(step: int, steps: int) -> float:
    """100 steps of warm-up, then a cosine down to a twentieth."""
    return min(1, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def measure(model: HNetNTV2ForMaskedLM, trial: Trial, setup: Setup, batches: int) -> dict[str, Any]:
    """Bits per masked base; ratios; final boundaries against the truth, on the rows without masks.

    Precision and recall leave out the row start, which is right by definition.
    """
    model.eval()
    bits, ratios = [], []
    hits = found = there = by_cap = at_last = bases = 0
    for number in range(batches):
        rows = _batch(model, trial, setup, seed=TEST_SEED + number)
        output = model(rows.input_ids, labels=rows.labels, only_targets=True, strands="forward")
        bits.append(float(output.task_loss) / math.log(2))
        chunkings = model.model.chunk(rows.bases)
        ratios.append([float(chunking.achieved_ratio) for chunking in chunkings])
        cuts, truth = final_boundaries(chunkings)[:, 1:], rows.truth[:, 1:]
        hits, found, there = hits + int((cuts & truth).sum()), found + int(cuts.sum()), there + int(truth.sum())
        bases += truth.numel()
        by_cap += int((chunkings[-1].reason == BoundaryReason.CAP.value).sum())
        at_last += int(chunkings[-1].is_boundary.sum())
    return {
        "bits": sum(bits) / batches,
        "bits_of_batches": bits,
        "ratios": torch.tensor(ratios).mean(0).tolist(),
        "precision": hits / max(found, 1),
        "recall": hits / max(there, 1),
        "chunks_per_base": found / bases,
        "truth_per_base": there / bases,
        "cap_share": by_cap / max(at_last, 1),
    }


def _batch(model: HNetNTV2ForMaskedLM, trial: Trial, setup: Setup, seed: int) -> Rows:
    rows = Rows(*(tensor.to(setup.device) for tensor in _sample(trial, setup.rows, seed)))
    _show_truth(model, rows.truth)
    if trial.changes.get("masks") != "own":
        return rows
    with torch.no_grad():
        return mask_chunks(rows, final_boundaries(model.model.chunk(rows.bases)), seed)


def _show_truth(model: HNetNTV2ForMaskedLM, truth: torch.Tensor) -> None:
    for stage in model.model.stages:
        if isinstance(stage.router, Oracle):
            stage.router.truth = truth
