"""What a variant changes in the eyes of the model."""

from .job import JobResult, score_file
from .score import ScoreSettings, VariantScore, score_variants

__all__ = ["JobResult", "ScoreSettings", "VariantScore", "score_file", "score_variants"]
