"""Vectors of sequences, of their bases and of their chunks."""

from .embed import Embedding, EmbedSettings, embed_sequences
from .formats import read_embeddings, write_embeddings
from .job import EmbedSummary, embed_to_file
from .layers import ChunkVectors, ForwardPass, layer_names
from .sequences import NamedSequence, read_fasta, read_regions, table_sequences
from .table import EmbeddingTable

__all__ = [
    "ChunkVectors",
    "EmbedSettings",
    "EmbedSummary",
    "Embedding",
    "EmbeddingTable",
    "ForwardPass",
    "NamedSequence",
    "embed_sequences",
    "embed_to_file",
    "layer_names",
    "read_embeddings",
    "read_fasta",
    "read_regions",
    "table_sequences",
    "write_embeddings",
]
