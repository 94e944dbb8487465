"""From source weights to a model that can start training, and routers that start sensibly."""

DEFAULT_SOURCE = "InstaDeepAI/nucleotide-transformer-v2-500m-multi-species"
DEFAULT_SEED = 2222
UNTRAINED = "**Not trained further.**"
"""Sentence of a start's model card, which training replaces in the card of what it makes of it."""
