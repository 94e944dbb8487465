"""Embeddings of many sequences as one table, and the table as named arrays and texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .embed import Embedding
from .layers import ChunkVectors

TEXTS = ("names", "labels", "contigs", "strands")
NUMBERS = ("num_bases", "starts", "ends")


@dataclass(frozen=True)
class EmbeddingTable:
    """The content of a file of embeddings; what is not known of the sequences is None.

    Attributes:
        names: Of the sequences, in the order of the input.
        vectors: [sequences, dim] float32 by ``layer_pool``.
        num_bases: [sequences] Number of A, C, G and T in each pool.
        per_base: [length, dim] float32 of each sequence.
        per_chunk: Final chunks of each sequence.
        labels: As their file spells them.
        contigs: Where the sequences lie, like the next three.
        starts: [sequences] int64, 0-based.
        ends: [sequences] int64, not included.
        strands: ``+``, ``-`` or ``.``.
        settings: Model, input, layers, strands and windows that they were made with.
    """

    names: tuple[str, ...]
    vectors: dict[str, NDArray[np.float32]]
    num_bases: NDArray[np.int64]
    per_base: tuple[NDArray[np.float32], ...] | None = None
    per_chunk: tuple[ChunkVectors, ...] | None = None
    labels: tuple[str, ...] | None = None
    contigs: tuple[str, ...] | None = None
    starts: NDArray[np.int64] | None = None
    ends: NDArray[np.int64] | None = None
    strands: tuple[str, ...] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """[sequences, dim] The first layer's first pool."""
        return next(iter(self.vectors.values()))

    @classmethod
    def of(cls, embeddings: Sequence[Embedding]) -> "EmbeddingTable":
        """The table of at least one embedding; all were made with the same settings."""
        first, sequences = embeddings[0], [each.sequence for each in embeddings]
        intervals = [each.interval for each in sequences if each.interval is not None]
        has_place = len(intervals) == len(sequences)
        return cls(
            tuple(each.name for each in sequences),
            {name: np.stack([each.vectors[name] for each in embeddings]) for name in first.vectors},
            np.array([each.num_bases for each in embeddings], np.int64),
            tuple(e.per_base for e in embeddings if e.per_base is not None) if first.per_base is not None else None,
            tuple(e.per_chunk for e in embeddings if e.per_chunk is not None) if first.per_chunk is not None else None,
            tuple(each.label or "" for each in sequences) if sequences[0].label is not None else None,
            tuple(each.contig for each in intervals) if has_place else None,
            np.array([each.start for each in intervals], np.int64) if has_place else None,
            np.array([each.end for each in intervals], np.int64) if has_place else None,
            tuple(each.strand or "." for each in sequences) if sequences[0].strand is not None else None,
        )

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Those of the named attributes that are known."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def ragged(self, first: int = 0) -> dict[str, NDArray]:
        """Arrays of one sequence each, numbered from ``first``."""
        arrays: dict[str, NDArray] = {f"per_base_{first + i}": each for i, each in enumerate(self.per_base or ())}
        for index, chunks in enumerate(self.per_chunk or (), first):
            arrays |= {f"per_chunk_{index}": chunks.vectors, f"chunk_spans_{index}": chunks.spans}
        return arrays

    def arrays(self) -> dict[str, NDArray]:
        """All arrays under the names that they have in files."""
        return (
            self.ragged()
            | {stored_name(self.vectors, name): each for name, each in self.vectors.items()}
            | (self.columns(NUMBERS))
        )

    def texts(self) -> dict[str, str]:
        """Names, labels, contigs, strands and settings as JSON."""
        return {name: json.dumps(value) for name, value in self.columns(TEXTS).items()} | {
            "settings": json.dumps(self.settings | {"vectors": list(self.vectors)})
        }

    @classmethod
    def from_stored(cls, arrays: Mapping[str, NDArray], texts: Mapping[str, str]) -> "EmbeddingTable":
        """The inverse of ``arrays`` and ``texts``; raises KeyError or ValueError for other ones."""
        settings = json.loads(texts["settings"])
        names, vectors = json.loads(texts["names"]), settings.pop("vectors")
        rows = range(len(names))
        bases = [arrays[f"per_base_{row}"] for row in rows] if "per_base_0" in arrays else None
        chunks = None
        if "per_chunk_0" in arrays:
            chunks = tuple(ChunkVectors(arrays[f"per_chunk_{row}"], arrays[f"chunk_spans_{row}"]) for row in rows)
        known: dict[str, Any] = {name: tuple(json.loads(texts[name])) for name in TEXTS if name in texts}
        known |= {name: arrays[name] for name in NUMBERS if name in arrays}
        return cls(
            vectors={name: arrays[stored_name(vectors, name)] for name in vectors},
            per_base=None if bases is None else tuple(bases),
            per_chunk=chunks,
            settings=settings,
            **known,
        )


def stored_name(names: Sequence[str] | Mapping[str, Any], name: str) -> str:
    """Name of an array in a file: the first layer and pool is called ``embeddings``."""
    return "embeddings" if name == next(iter(names)) else name
