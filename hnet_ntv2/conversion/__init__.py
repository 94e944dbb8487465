"""Build a start, the model that training begins from: NTv2's weights copied, routers calibrated, a ledger of it all."""

DEFAULT_SOURCE = "InstaDeepAI/nucleotide-transformer-v2-500m-multi-species"
DEFAULT_SEED = 2222
UNTRAINED = "**Not trained further.**"
"""Sentence of a start's model card; training replaces it in the card of the trained model."""
