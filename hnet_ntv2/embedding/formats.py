"""Write and read tables of embeddings: ``.npz``, ``.safetensors``, ``.parquet`` and ``.h5ad``. None holds pickles."""

import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import ConfigError, DataError
from ..storage import appearing_file
from .embed import Embedding
from .layers import ChunkVectors
from .table import NUMBERS, TEXTS, EmbeddingTable

# Of pyarrow's schema and of .safetensors; one key only, since safetensors writes several in an order of chance.
_METADATA = "hnet_ntv2"
# safetensors begin with the length of a JSON object, which holds the metadata.
_LENGTH = struct.Struct("<Q")
_SPANS = "chunk_spans"


def check_output(path: str | os.PathLike[str], is_ragged: bool = False) -> Path:
    """Check that the suffix of a path names a format that can be written here; the path.

    Args:
        path: The output.
        is_ragged: Whether there are vectors per base or chunk.

    Raises:
        ConfigError: It does not.
    """
    path = Path(path)
    if path.suffix == ".gz":
        raise ConfigError(f"{path}: embeddings are read at any place, which gzip does not allow; leave out .gz")
    if path.suffix not in _WRITERS:
        *others, last = _WRITERS
        raise ConfigError(f"{path}: the suffix says the format; use {', '.join(others)} or {last}")
    if path.suffix == ".h5ad" and is_ragged:
        raise ConfigError(f"{path}: .h5ad has one row per sequence, not per base or chunk; use .parquet or .npz")
    if path.suffix == ".h5ad" and find_spec("anndata") is None:
        raise ConfigError(f'{path}: .h5ad needs a package that is not installed: pip install "hnet-ntv2[anndata]"')
    return path


def write_embeddings(
    path: str | os.PathLike[str], embeddings: Iterable[Embedding], settings: Mapping[str, Any]
) -> tuple[int, int]:
    """Write embeddings, all of which are in memory; ``job.embed_to_file`` is for more.

    Returns:
        Number of sequences, and number of those that have no A, C, G or T (their vectors are NaN).

    Raises:
        ConfigError: As ``check_output``, or the place cannot be written.
        DataError: There are no sequences.
    """
    path, rows = check_output(path), list(embeddings)
    if not rows:
        raise DataError("there is no sequence to embed")
    check_output(path, is_ragged=rows[0].per_base is not None or rows[0].per_chunk is not None)
    with appearing_file(path) as partial:
        write_tables(partial, path.suffix, [EmbeddingTable.of(rows)], settings)
    return len(rows), sum(row.num_bases == 0 for row in rows)


def write_tables(path: Path, suffix: str, tables: Iterable[EmbeddingTable], settings: Mapping[str, Any]) -> None:
    """Write the rows of at least one table into a file.

    ``.npz`` and ``.parquet`` are written table by table, the others from memory. ``.npz`` and ``.safetensors`` hold
    ``embeddings`` [sequences, dim] (the first layer's first pool), the others as ``layer_pool``, and ``num_bases``,
    ``starts`` and ``ends`` [sequences]; per sequence ``per_base_0`` ... [length, dim], ``per_chunk_0`` [chunks, dim]
    and ``chunk_spans_0`` [chunks, 2]. Texts (names, labels, contigs, strands, and the settings as JSON) are arrays
    of an ``.npz``, and one JSON object in the metadata of a ``.safetensors``. ``.parquet`` has one row per sequence,
    and the settings in the metadata of its schema. ``.h5ad`` has the first pool as X, the others in obsm, and the
    settings as JSON in uns.

    Args:
        path: Where to.
        suffix: Of the format.
        tables: Iterated several times.
        settings: That they were made with.
    """
    _WRITERS[suffix](path, tables, dict(settings))


def read_embeddings(path: str | os.PathLike[str]) -> EmbeddingTable:
    """Read a file of embeddings, of any of the formats.

    Raises:
        ConfigError: The suffix is unknown.
        DataError: The file is missing, or no file of embeddings.
    """
    path = check_output(path)
    try:
        return _READERS[path.suffix](path)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(f"{path} is no file of embeddings: {error}") from error


def _write_npz(path: Path, tables: Iterable[EmbeddingTable], settings: dict[str, Any]) -> None:
    first, texts = next(iter(tables)), _joined_texts(tables, settings)
    num_rows = len(json.loads(texts["names"]))
    # Member by member, since np.savez wants all arrays at once; stored, since floats hardly compress.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, shape: tuple[int, ...], dtype: np.dtype, parts: Iterable[NDArray]) -> None:
            # zip64: the size is not known before, and vectors per base can exceed 4 GiB.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(member, header)
                for part in parts:
                    member.write(np.ascontiguousarray(part).data)

        done = 0
        for table in tables:
            for name, array in table.ragged(done).items():
                write(name, array.shape, array.dtype, [array])
            done += len(table.names)
        for name, array in first.arrays().items():
            if name not in first.ragged():
                write(name, (num_rows, *array.shape[1:]), array.dtype, (table.arrays()[name] for table in tables))
        for name, text in texts.items():
            array = np.array(text if name == "settings" else json.loads(text), np.str_)
            write(name, array.shape, array.dtype, [array])


def _joined_texts(tables: Iterable[EmbeddingTable], settings: dict[str, Any]) -> dict[str, str]:
    """``EmbeddingTable.texts`` of all tables."""
    first = next(iter(tables))
    columns = {name: tuple(chain(*(getattr(table, name) for table in tables))) for name in first.columns(TEXTS)}
    return replace(first, settings=settings, **columns).texts()


def _joined(tables: Iterable[EmbeddingTable], settings: dict[str, Any]) -> EmbeddingTable:
    """All tables as one, in memory."""
    found = list(tables)
    columns: dict[str, Any] = {"settings": settings}
    for name in (each.name for each in fields(EmbeddingTable) if each.name not in ("vectors", "settings")):
        parts = [getattr(table, name) for table in found]
        if parts[0] is not None:
            columns[name] = np.concatenate(parts) if isinstance(parts[0], np.ndarray) else tuple(chain(*parts))
    vectors = {name: np.concatenate([table.vectors[name] for table in found]) for name in found[0].vectors}
    return EmbeddingTable(vectors=vectors, **columns)


def _read_npz(path: Path) -> EmbeddingTable:
    with np.load(path, allow_pickle=False) as stored:  # a pickle could run code
        arrays = {key: stored[key] for key in stored.files}
    texts = {name: json.dumps(arrays.pop(name).tolist()) for name in TEXTS if name in arrays}
    return EmbeddingTable.from_stored(arrays, texts | {"settings": str(arrays["settings"])})


def to_safetensors(table: EmbeddingTable) -> bytes:
    """A table in the format of ``.safetensors``."""
    return save(table.arrays(), {_METADATA: json.dumps(table.texts())})


def from_safetensors(data: bytes) -> EmbeddingTable:
    """The inverse of ``to_safetensors``; raises KeyError, ValueError or SafetensorError for other bytes."""
    arrays = load(data)  # checks the header, which is read once more for the texts
    (length,) = _LENGTH.unpack_from(data)
    header = json.loads(data[_LENGTH.size : _LENGTH.size + length])
    return EmbeddingTable.from_stored(arrays, json.loads(header["__metadata__"][_METADATA]))


def _write_safetensors(path: Path, tables: Iterable[EmbeddingTable], settings: dict[str, Any]) -> None:
    path.write_bytes(to_safetensors(_joined(tables, settings)))


def _write_parquet(path: Path, tables: Iterable[EmbeddingTable], settings: dict[str, Any]) -> None:
    from pyarrow import parquet

    first = next(iter(tables))
    metadata = {_METADATA: json.dumps(settings | {"vectors": list(first.vectors)})}
    schema = _to_arrow(first).schema.with_metadata(metadata)
    # Only texts that recur get a dictionary; floats hardly compress.
    with parquet.ParquetWriter(path, schema, use_dictionary=["label", "contig", "strand"]) as writer:  # pyright: ignore[reportArgumentType]
        for table in tables:
            writer.write_table(_to_arrow(table).cast(schema))


def _to_arrow(table: EmbeddingTable) -> Any:
    import pyarrow as pa

    def fixed(array: NDArray) -> Any:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])

    def ragged(arrays: Sequence[NDArray]) -> Any:
        offsets = np.cumsum([0, *map(len, arrays)])
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), fixed(np.concatenate(arrays)))

    columns = {_singular(name): pa.array(value) for name, value in table.columns((*TEXTS, *NUMBERS)).items()}
    columns |= {name: fixed(array) for name, array in table.vectors.items()}
    if table.per_base is not None:
        columns["per_base"] = ragged(table.per_base)
    if table.per_chunk is not None:
        columns["per_chunk"] = ragged([each.vectors for each in table.per_chunk])
        columns[_SPANS] = ragged([each.spans for each in table.per_chunk])
    return pa.table(columns)


def _singular(name: str) -> str:
    return name if name == "num_bases" else name.removesuffix("s")


def _read_parquet(path: Path) -> EmbeddingTable:
    from pyarrow import parquet

    stored = parquet.read_table(path)
    settings = json.loads((stored.schema.metadata or {})[_METADATA.encode()])

    def column(name: str) -> Any:
        return stored[name].combine_chunks()

    def fixed(array: Any) -> NDArray:
        return array.flatten().to_numpy().reshape(len(array), -1)

    def ragged(name: str) -> tuple[NDArray, ...]:
        array = column(name)
        return tuple(np.split(fixed(array.values), array.offsets.to_numpy()[1:-1]))

    known: dict[str, Any] = {
        name: tuple(column(_singular(name)).to_pylist()) for name in TEXTS if _singular(name) in stored.column_names
    }
    known |= {name: column(_singular(name)).to_numpy() for name in NUMBERS if _singular(name) in stored.column_names}
    if "per_base" in stored.column_names:
        known["per_base"] = ragged("per_base")
    if "per_chunk" in stored.column_names:
        known["per_chunk"] = tuple(map(ChunkVectors, ragged("per_chunk"), ragged(_SPANS)))
    return EmbeddingTable(
        vectors={name: fixed(column(name)) for name in settings.pop("vectors")},
        settings=settings,
        **known,
    )


def _write_h5ad(path: Path, tables: Iterable[EmbeddingTable], settings: dict[str, Any]) -> None:
    import anndata
    import pandas as pd

    table = _joined(tables, settings)
    columns = {_singular(name): value for name, value in table.columns((*TEXTS, *NUMBERS)).items()}
    # Numbers as index: names may recur, which an index must not.
    obs = pd.DataFrame(columns, index=pd.RangeIndex(len(table.names)).astype(str))
    others: dict[str, Any] = {name: array for name, array in table.vectors.items() if name != next(iter(table.vectors))}
    uns = {_METADATA: table.texts()["settings"]}
    anndata.AnnData(X=table.embeddings, obs=obs, obsm=others, uns=uns).write_h5ad(path)


def _read_h5ad(path: Path) -> EmbeddingTable:
    import anndata

    stored = anndata.read_h5ad(path)
    settings = json.loads(stored.uns[_METADATA])
    first, *others = settings.pop("vectors")
    columns = {_singular(name): name for name in (*TEXTS, *NUMBERS)}
    known: dict[str, Any] = {columns[name]: stored.obs[name].to_numpy() for name in columns if name in stored.obs}
    known |= {name: tuple(map(str, known[name])) for name in TEXTS if name in known}  # they are stored as categories
    known["vectors"] = {first: stored.X} | {name: stored.obsm[name] for name in others}
    return EmbeddingTable(settings=settings, **known)


_Write = Callable[[Path, Iterable[EmbeddingTable], dict[str, Any]], None]
_WRITERS: dict[str, _Write] = {
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
    ".parquet": _write_parquet,
    ".h5ad": _write_h5ad,
}
_READERS: dict[str, Callable[[Path], EmbeddingTable]] = {
    ".npz": _read_npz,
    ".safetensors": lambda path: from_safetensors(path.read_bytes()),
    ".parquet": _read_parquet,
    ".h5ad": _read_h5ad,
}
