"""Score variants: masked log-odds of substitutions; change of unmasked log p and of vectors around any allele."""

from collections.abc import Mapping, Sequence
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
        near: Bases on each side of the allele that count in the delta and the distances. The allele is what remains
            when the bases that reference and alternative share are trimmed; an indel in a repeat covers all places
            where it could be written.
        strands: "both" averages log-probabilities and vectors of both strands; "forward" runs one.
        batch_bases: Most bases of one forward pass, padding included, before strands.

    Raises:
        ConfigError: A size is out of range.
    """

    window: int | None = None
    near: int = DEFAULT_NEAR
    strands: Strands = "both"
    batch_bases: int = DEFAULT_BATCH_BASES

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 16:
            raise ConfigError(f"window={self.window} must be at least 16 bases")
        if self.near < 0:
            raise ConfigError(f"near={self.near} must not be negative")
        if self.batch_bases < 1:
            raise ConfigError(f"batch_bases={self.batch_bases} must be positive")


class VariantScore(NamedTuple):
    """The scores of one allele.

    Attributes:
        log_odds: log p(alt) - log p(ref) in nats at the substituted base, with k bases around it masked
            (``context.masked_rows``; the mean over placements). None unless the alleles differ in exactly one base.
        delta_log_likelihood: Sum of log p in nats over the allele and ``near`` bases on each side, with the alternative
            minus with the reference. Nothing is masked: the model can copy the bases, so this is no likelihood of the
            sequence. An indel changes the number of bases in the sum.
        cosine_distance: 1 - cosine of the mean vectors of the same bases with either allele.
        l2_distance: Euclidean distance of these mean vectors.
    """

    log_odds: float | None
    delta_log_likelihood: float
    cosine_distance: float
    l2_distance: float


def score_variants(
    model: HNetNTV2ForMaskedLM, genome: Genome, variants: Sequence[Variant], settings: ScoreSettings | None = None
) -> list[VariantScore | str]:
    """The scores of alleles whose reference was checked on the genome (``VariantChecker.problem``).

    Args:
        model: In eval mode.
        genome: The reference.
        variants: Alleles; a row that several of them need is computed once.
        settings: None for the defaults of ``ScoreSettings``.

    Returns:
        For each allele its scores, or the reason why it has none.

    Raises:
        ContigNotFound, IntervalError: A variant is not on the genome.
    """
    settings = settings or ScoreSettings()
    window = settings.window or default_window(model.config, DEFAULT_WINDOW)
    checker = VariantChecker(genome)
    contexts = [checker.skip_reason(each) or _context(genome, checker.change(each), window) for each in variants]
    k = model.config.kmer_size
    # By content: alleles of one site share the reference window and its masked copies.
    rows = {
        row.tobytes(): row
        for context in contexts
        if isinstance(context, VariantContext)
        for row in (context.ref.ids, context.alt.ids, *_masked(context, k))
    }
    answers = _run_rows(model, rows, settings)
    return [_score(each, answers, k, settings.near) if isinstance(each, VariantContext) else each for each in contexts]


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
    """The model's output for one row.

    Attributes:
        log_probs: [length, 4] of A, C, G, T.
        vectors: [length, dim].
    """

    log_probs: NDArray[np.float32]
    vectors: NDArray[np.float32]


def _run_rows(
    model: HNetNTV2ForMaskedLM, rows: Mapping[bytes, NDArray[np.uint8]], settings: ScoreSettings
) -> dict[bytes, _Answer]:
    """Run the model on all rows, batched by length; the answers have the keys of the rows."""
    keyed = list(rows.items())
    answers = {}
    for batch in batches_by_length([len(row) for _, row in keyed], settings.batch_bases):
        input_ids = pad_rows([keyed[index][1] for index in batch], model.device)
        with torch.inference_mode():
            row_ids, output = model.model.run_strands(input_ids, strands=settings.strands)
            hidden, chunkings, _ = output
            is_valid = chunkings[0].is_valid[: len(input_ids)]
            letters = average_letters(model.letter_log_probs(row_ids, output), is_valid)
            # Normalised again: the mean of two strands' log-probabilities does not sum to 1 as probabilities.
            log_probs = letters.float().log_softmax(-1).cpu().numpy()
            vectors = average_strands(hidden, is_valid).float().cpu().numpy()
        for place, index in enumerate(batch):
            key, row = keyed[index]
            answers[key] = _Answer(log_probs[place, : len(row)], vectors[place, : len(row)])
    return answers


def _score(context: VariantContext, answers: dict[bytes, _Answer], k: int, near: int) -> VariantScore:
    ref_sum, ref_mean = _surroundings(context.ref, answers[context.ref.ids.tobytes()], near)
    alt_sum, alt_mean = _surroundings(context.alt, answers[context.alt.ids.tobytes()], near)
    norms = float(np.linalg.norm(ref_mean) * np.linalg.norm(alt_mean))
    cosine = float(ref_mean @ alt_mean) / norms if norms else 1.0  # vectors of zeros do not differ
    return VariantScore(
        log_odds=_log_odds(context, answers, k),
        delta_log_likelihood=alt_sum - ref_sum,
        cosine_distance=max(1 - cosine, 0.0),  # rounding can put the cosine above 1
        l2_distance=float(np.linalg.norm(alt_mean - ref_mean)),
    )


def _surroundings(window: AlleleWindow, answer: _Answer, near: int) -> tuple[float, NDArray[np.float64]]:
    """Sum of the log-probabilities, and mean vector, of the bases near the allele."""
    is_near = window.near(near)
    # float64: the difference of two sums is far smaller than the sums.
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
