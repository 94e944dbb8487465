"""Embedding into files: every format gives back what was written, and a resumed job writes the same bytes."""

import os

import numpy as np
import pytest

from hnet_ntv2.embedding import (
    EmbedSettings,
    NamedSequence,
    embed_sequences,
    embed_to_file,
    read_embeddings,
    write_embeddings,
)
from hnet_ntv2.errors import ConfigError, DataError
from hnet_ntv2.genome import Interval, encode
from tests.builders import lively_model, random_letters

FORMATS = (".npz", ".safetensors", ".parquet", ".h5ad")
SETTINGS = EmbedSettings(("trunk_1", "last"), ("mean", "bins", "max"), window=50, flank=10, batch_bases=600)


@pytest.fixture(scope="module")
def model():
    return lively_model()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("hnet_ntv2.inference.windows._BATCHES_PER_GROUP", 1)


def sequences(count: int = 24) -> list[NamedSequence]:
    """Three blocks of 600 bases."""
    letters = [random_letters(60 + number % 7, number) for number in range(count)]
    letters[3] = "N" * 30
    return [
        NamedSequence(f"s{number % 20}", encode(text.encode()), "ab"[number % 2], Interval("c", number, 500), "-")
        for number, text in enumerate(letters)
    ]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_back_what_was_embedded(model, suffix, tmp_path):
    path, rows = tmp_path / f"v{suffix}", sequences()
    summary = embed_to_file(model, rows, path, SETTINGS, identity={"model": "m"})
    assert (summary.num_sequences, summary.num_empty, summary.first_empty) == (24, 1, "s3")
    table, expected = read_embeddings(path), list(embed_sequences(model, rows, SETTINGS))
    assert list(table.vectors) == [f"{layer}_{pool}" for layer in SETTINGS.layers for pool in SETTINGS.pools]
    for name, vectors in table.vectors.items():
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, [each.vectors[name] for each in expected])
    assert np.isnan(table.embeddings[3]).all()
    assert table.names == tuple(each.name for each in rows)
    assert table.labels == tuple(each.label for each in rows)
    assert (set(table.contigs), set(table.strands), set(table.ends.tolist())) == ({"c"}, {"-"}, {500})
    assert table.starts.tolist() == list(range(24))
    assert table.num_bases.tolist() == [each.num_bases for each in expected]
    assert (table.settings["model"], table.settings["window"], table.settings["layers"]) == (
        "m",
        50,
        [*SETTINGS.layers],
    )
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", FORMATS[:3])
def test_vectors_per_base_and_chunk_come_back(model, suffix, tmp_path):
    path, settings = tmp_path / f"v{suffix}", EmbedSettings(per_base=True, per_chunk=True, batch_bases=300)
    rows = [NamedSequence(str(length), encode(random_letters(length, length).encode())) for length in range(1, 40, 2)]
    embed_to_file(model, rows, path, settings)
    table = read_embeddings(path)
    assert (table.labels, table.contigs, table.starts, table.strands) == (None,) * 4
    for expected, bases, chunks in zip(
        embed_sequences(model, rows, settings), table.per_base, table.per_chunk, strict=True
    ):
        np.testing.assert_array_equal(bases, expected.per_base)
        np.testing.assert_array_equal(chunks.vectors, expected.per_chunk.vectors)
        np.testing.assert_array_equal(chunks.spans, expected.per_chunk.spans)


def test_the_table_of_parquet_is_for_others_too(model, tmp_path):
    from pyarrow import parquet

    write_embeddings(tmp_path / "v.parquet", embed_sequences(model, sequences(4), SETTINGS), {})
    table = parquet.read_table(tmp_path / "v.parquet")
    pools = [f"{layer}_{pool}" for layer in SETTINGS.layers for pool in SETTINGS.pools]
    assert table.column_names == ["name", "label", "contig", "strand", "num_bases", "start", "end", *pools]
    assert str(table.schema.field("last_bins").type).endswith("[256]")


class StoppedError(Exception):
    pass


def stopping(rows: list[NamedSequence], after: int):
    yield from rows[:after]
    raise StoppedError


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_resumed_job_writes_the_same_bytes(model, suffix, tmp_path):
    whole, path, rows = tmp_path / f"whole{suffix}", tmp_path / f"v{suffix}", sequences()
    embed_to_file(model, rows, whole, SETTINGS)
    with pytest.raises(StoppedError):
        embed_to_file(model, stopping(rows, 15), path, SETTINGS, resume=True)
    blocks = tmp_path / f"v{suffix}.blocks.partial"
    with blocks.open("ab") as file:
        file.write(b"\0\0\0\0\0\0\x10\0half of a block")
    with pytest.raises(ConfigError, match=r"was made differently \(window 50, now 40\)"):
        embed_to_file(model, rows, path, EmbedSettings(**(vars(SETTINGS) | {"window": 40})), resume=True)
    done = []
    embed_to_file(model, rows, path, SETTINGS, resume=True, progress=done.append)
    assert 0 < done[-1] < sum(len(each.bases) for each in rows), "a part was kept"
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, whole.name])


def test_a_complete_output_stays(model, tmp_path):
    path = tmp_path / "v.npz"
    embed_to_file(model, sequences(4), path, SETTINGS, identity={"input": "a"})
    summary = embed_to_file(model, stopping([], 0), path, SETTINGS, identity={"input": "a"}, resume=True)
    assert (summary.num_sequences, summary.first_empty) == (4, "s3")
    with pytest.raises(ConfigError, match="input 'a', now 'b'"):
        embed_to_file(model, [], path, SETTINGS, identity={"input": "b"}, resume=True)


def test_what_cannot_be_written_is_told_before_work(model, tmp_path):
    with pytest.raises(DataError, match="no sequence"):
        embed_to_file(model, [], tmp_path / "v.npz")
    with pytest.raises(ConfigError, match=r"\.h5ad has one row per sequence"):
        embed_to_file(model, stopping([], 0), tmp_path / "v.h5ad", EmbedSettings(per_base=True))
    with pytest.raises(ConfigError, match="pool 'median' is unknown; there are mean, max, first, bins"):
        embed_to_file(model, stopping([], 0), tmp_path / "v.npz", EmbedSettings(pools=("median",)))
    assert os.listdir(tmp_path) == []
