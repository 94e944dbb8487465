"""Write and read files of embeddings, ``.npz`` or ``.safetensors``; a file appears when it is complete."""

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import ConfigError, DataError
from ..storage import appearing_file
from .embed import Embedding

SUFFIXES = (".npz", ".safetensors")


@dataclass(frozen=True)
class EmbeddingTable:
    """The content of a file of embeddings.

    Attributes:
        names: Of the sequences, in the order of the input.
        embeddings: [sequences, dim] float32.
        num_bases: [sequences] Number of A, C, G and T in each mean.
        per_base: [length, dim] float32 of each sequence, or None.
        settings: Model, layer, strands and windows that they were made with.
    """

    names: tuple[str, ...]
    embeddings: NDArray[np.float32]
    num_bases: NDArray[np.int64]
    per_base: tuple[NDArray[np.float32], ...] | None
    settings: dict[str, Any]


def check_output(path: str | os.PathLike[str]) -> Path:
    """Check that the suffix of a path names a format; the path.

    Raises:
        ConfigError: It does not.
    """
    path = Path(path)
    if path.suffix == ".gz":
        raise ConfigError(f"{path}: embeddings are read at any place, which gzip does not allow; leave out .gz")
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: the suffix says the format; use {' or '.join(SUFFIXES)}")
    return path


def write_embeddings(
    path: str | os.PathLike[str], embeddings: Iterable[Embedding], settings: Mapping[str, Any]
) -> tuple[int, int]:
    """Write embeddings as they come; the file appears when all are there.

    Both formats hold ``embeddings`` [sequences, dim] and ``num_bases`` [sequences]; with vectors per base also
    ``per_base_0``, ``per_base_1`` ... [length, dim]. Names and settings (JSON) are the arrays ``names`` and
    ``settings`` of an ``.npz``, and the metadata (both JSON) of a ``.safetensors``. A ``.safetensors`` is kept in
    memory until it is complete.

    Returns:
        Number of sequences, and number of those that have no A, C, G or T (their vectors are NaN).

    Raises:
        ConfigError: The suffix is unknown, or the place cannot be written.
        DataError: There are no sequences.
    """
    path = check_output(path)
    rows: list[Embedding] = []

    def arrays() -> Iterator[tuple[str, NDArray]]:
        for embedding in embeddings:
            if embedding.per_base is not None:
                yield f"per_base_{len(rows)}", embedding.per_base
            rows.append(embedding._replace(per_base=None))  # written, and too large to keep
        if not rows:
            raise DataError("there is no sequence to embed")
        yield "embeddings", np.stack([row.mean for row in rows])
        yield "num_bases", np.array([row.num_bases for row in rows], np.int64)
        yield "names", np.array([row.name for row in rows], np.str_)
        yield "settings", np.array(json.dumps(dict(settings)))

    with appearing_file(path) as partial:
        (_write_npz if path.suffix == ".npz" else _write_safetensors)(partial, arrays())
    return len(rows), sum(row.num_bases == 0 for row in rows)


def _write_npz(path: Path, arrays: Iterator[tuple[str, NDArray]]) -> None:
    # Member by member, since np.savez wants all arrays at once; stored, since floats hardly compress.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays:
            # zip64: the size is not known before, and vectors per base can exceed 4 GiB.
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_safetensors(path: Path, arrays: Iterator[tuple[str, NDArray]]) -> None:
    tensors = dict(arrays)
    # Texts are metadata: the format has no strings.
    metadata = {"names": json.dumps(tensors.pop("names").tolist()), "settings": str(tensors.pop("settings"))}
    save_file(tensors, path, metadata=metadata)


def read_embeddings(path: str | os.PathLike[str]) -> EmbeddingTable:
    """Read a file that ``write_embeddings`` made.

    Raises:
        ConfigError: The suffix is unknown.
        DataError: The file is missing, or no file of embeddings.
    """
    path = check_output(path)
    try:
        arrays, names, settings = (_read_npz if path.suffix == ".npz" else _read_safetensors)(path)
        bases = tuple(arrays[f"per_base_{index}"] for index in range(len(names))) if "per_base_0" in arrays else None
        return EmbeddingTable(tuple(names), arrays["embeddings"], arrays["num_bases"], bases, json.loads(settings))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(f"{path} is no file of embeddings: {error}") from error


def _read_npz(path: Path) -> tuple[dict[str, NDArray], list[str], str]:
    with np.load(path, allow_pickle=False) as stored:  # a pickle could run code
        arrays = {key: stored[key] for key in stored.files}
    return arrays, arrays.pop("names").tolist(), str(arrays.pop("settings"))


def _read_safetensors(path: Path) -> tuple[dict[str, NDArray], list[str], str]:
    with safe_open(path, framework="numpy") as stored:
        metadata = stored.metadata() or {}
        arrays = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  (no mapping)
    return arrays, json.loads(metadata["names"]), metadata["settings"]
