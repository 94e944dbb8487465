"""Vectors of sequences and of their bases."""

from .embed import Embedding, EmbedSettings, base_vectors, embed_sequences, layer_names
from .sequences import NamedSequence, read_fasta, read_regions
from .store import EmbeddingTable, read_embeddings, write_embeddings

__all__ = [
    "EmbedSettings",
    "Embedding",
    "EmbeddingTable",
    "NamedSequence",
    "base_vectors",
    "embed_sequences",
    "layer_names",
    "read_embeddings",
    "read_fasta",
    "read_regions",
    "write_embeddings",
]
