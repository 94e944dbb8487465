"""Score variants: masked log-odds of substitutions, and how unmasked log p and vectors around any allele change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError
from ..genome import Change, Genome, Variant, VariantChecker
from ..inference.windows import DEFAULT_BATCH_BASES, batches_by_length, default_window, pad_rows
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..strands import Strands, average_letters, average_strands
from ..vocabulary import A
from .context import AlleleWindow, VariantContext, masked_rows, variant_context

DEFAULT_WINDOW, DEFAULT_NEAR = 1024, 32


@dataclass(frozen=True)
class ScoreSettings:
    """How to score.

    Attributes:
        window: Bases around a variant that the model sees, the longer allele included; None for the length of its
            training windows, or 1,024 where its config does not say.
        near: How many bases on each side of the allele the delta and the distances look at. The allele is what is left
            when the bases that reference and alternative share are trimmed; an indel in a repeat covers all places
            where it could be written.
        strands: "both" averages log-probabilities and vectors of both strands; "forward" runs one.
        batch_bases: Most bases of one forward pass, padding included, before strands.
    """

    window: int | None = None
    near: int = DEFAULT_NEAR
    strands: Strands = "both"
    batch_bases: int = DEFAULT_BATCH_BASES


class VariantScore(NamedTuple):
    """The scores of one allele.

    Attributes:
        log_odds: log p(alt) - log p(ref) in nats at the substituted base, which is shown as [MASK] with the bases
            around it, k in all (``context.masked_rows``; the mean over placements). None unless the alleles differ in
            exactly one base.
        delta_log_likelihood: The sum of log p in nats of the bases as they are, over the allele and ``near``
            bases on each side, with the alternative minus with the reference. Nothing is masked: the model sees the
            bases that it is asked for and can copy them, so this is no likelihood of the sequence. An indel changes how
            many bases are summed.
        cosine_distance: 1 - cosine of the mean vectors of the same bases with either allele.
        l2_distance: Euclidean distance of these mean vectors.
    """

    log_odds: float | None
    delta_log_likelihood: float
    cosine_distance: float
    l2_distance: float


def check_score_settings(settings: ScoreSettings) -> None:
    """Stop at sizes that make no sense.

    Raises:
        ConfigError: Naming the setting.
    """
    if settings.window is not None and settings.window < 16:
        raise ConfigError(f"window={settings.window} must be at least 16 bases")
    if settings.near < 0:
        raise ConfigError(f"near={settings.near} must not be negative")
    if settings.batch_bases < 1:
        raise ConfigError(f"batch_bases={settings.batch_bases} must be positive")


def score_variants(
    model: HNetNTV2ForMaskedLM, genome: Genome, variants: Sequence[Variant], settings: ScoreSettings | None = None
) -> list[VariantScore | str]:
    """Score alleles whose reference was checked on the genome (``VariantChecker.problem``).

    Args:
        model: In eval mode.
        genome: The reference.
        variants: Alleles; what is masked or alike among them is computed once.
        settings: How; the defaults of ``ScoreSettings`` without.

    Returns:
        For each allele its scores, or why it has none.

    Raises:
        ConfigError: A setting makes no sense.
        ContigNotFound, IntervalError: A variant is not on the genome.
    """
    settings = settings or ScoreSettings()
    check_score_settings(settings)
    contexts = _contexts(genome, variants, settings.window or default_window(model.config, DEFAULT_WINDOW))
    rows = _Rows()
    k = model.config.kmer_size
    for context in contexts:
        if isinstance(context, VariantContext):
            for row in (context.ref.ids, context.alt.ids, *_masked(context, k)):
                rows.add(row)
    answers = rows.answer(model, settings)
    return [_score(each, answers, k, settings.near) if isinstance(each, VariantContext) else each for each in contexts]


def _contexts(genome: Genome, variants: Sequence[Variant], window: int) -> list[VariantContext | str]:
    checker = VariantChecker(genome)
    contexts: list[VariantContext | str] = []
    for variant in variants:
        reason = checker.skip_reason(variant)
        contexts.append(_context(genome, checker.change(variant), window) if reason is None else reason)
    return contexts


def _context(genome: Genome, change: Change, window: int) -> VariantContext | str:
    context = variant_context(genome, change, window)
    if context is not None:
        return context
    is_long = max(len(change.deleted), len(change.inserted)) > window // 2
    return f"{'allele' if is_long else 'repeat around the allele'} longer than half of the window ({window})"


def _masked(context: VariantContext, k: int) -> list[NDArray[np.uint8]]:
    position = context.substituted
    return [] if position is None else masked_rows(context.ref.ids, position, k)


class _Answer(NamedTuple):
    """What the model says of one row.

    Attributes:
        log_probs: [length, 4] of A, C, G, T.
        vectors: [length, dim].
    """

    log_probs: NDArray[np.float32]
    vectors: NDArray[np.float32]


class _Rows:
    """The rows that the model must see, each once."""

    def __init__(self) -> None:
        self._rows: dict[bytes, NDArray[np.uint8]] = {}

    def add(self, row: NDArray[np.uint8]) -> None:
        self._rows.setdefault(row.tobytes(), row)

    def answer(self, model: HNetNTV2ForMaskedLM, settings: ScoreSettings) -> dict[bytes, _Answer]:
        """Run the model on all rows, batched by length."""
        keys, rows = list(self._rows), list(self._rows.values())
        answers = {}
        for batch in batches_by_length([len(row) for row in rows], settings.batch_bases):
            input_ids = pad_rows([rows[index] for index in batch], model.device)
            with torch.inference_mode():
                row_ids, output = model.model.run_strands(input_ids, strands=settings.strands)
                hidden, chunkings, _ = output
                is_valid = chunkings[0].is_valid[: len(input_ids)]
                letters = average_letters(model.letter_log_probs(row_ids, output), is_valid)
                # The mean over strands of log-probabilities is not normalised.
                log_probs = letters.float().log_softmax(-1).cpu().numpy()
                vectors = average_strands(hidden, is_valid).float().cpu().numpy()
            for place, index in enumerate(batch):
                length = len(rows[index])
                answers[keys[index]] = _Answer(log_probs[place, :length], vectors[place, :length])
        return answers


def _score(context: VariantContext, answers: dict[bytes, _Answer], k: int, near: int) -> VariantScore:
    ref_sum, ref_mean = _surroundings(context.ref, answers[context.ref.ids.tobytes()], near)
    alt_sum, alt_mean = _surroundings(context.alt, answers[context.alt.ids.tobytes()], near)
    norms = float(np.linalg.norm(ref_mean) * np.linalg.norm(alt_mean))
    cosine = float(ref_mean @ alt_mean) / norms if norms else 1.0
    return VariantScore(
        log_odds=_log_odds(context, answers, k),
        delta_log_likelihood=alt_sum - ref_sum,
        cosine_distance=max(1 - cosine, 0.0),
        l2_distance=float(np.linalg.norm(alt_mean - ref_mean)),
    )


def _surroundings(window: AlleleWindow, answer: _Answer, near: int) -> tuple[float, NDArray[np.float64]]:
    """Sum of the log-probabilities, and mean vector, of the bases near the allele."""
    is_near = window.near(near)
    letters = window.ids[is_near].astype(np.int64) - A
    log_probs = answer.log_probs[is_near].astype(np.float64)
    return float(log_probs[np.arange(len(letters)), letters].sum()), answer.vectors[is_near].mean(0, dtype=np.float64)


def _log_odds(context: VariantContext, answers: dict[bytes, _Answer], k: int) -> float | None:
    position = context.substituted
    if position is None:
        return None
    ref, alt = int(context.ref.ids[position]) - A, int(context.alt.ids[position]) - A
    found = [answers[row.tobytes()].log_probs[position].astype(np.float64) for row in _masked(context, k)]
    return float(np.mean([log_probs[alt] - log_probs[ref] for log_probs in found]))
