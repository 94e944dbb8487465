"""Scores of variants: how the model's probabilities and vectors change from the reference to the alternative allele."""

from .job import JobResult, score_file
from .score import ScoreSettings, VariantScore, score_variants

__all__ = ["JobResult", "ScoreSettings", "VariantScore", "score_file", "score_variants"]
