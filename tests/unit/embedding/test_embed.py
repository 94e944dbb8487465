"""Embeddings: what the model says, independent of batches and strands, with each base embedded once."""

import numpy as np
import pytest
import torch

from hnet_ntv2.embedding import (
    EmbedSettings,
    ForwardPass,
    NamedSequence,
    embed_sequences,
    layer_names,
    read_embeddings,
    read_fasta,
    read_regions,
    write_embeddings,
)
from hnet_ntv2.errors import ConfigError, DataError, GenomeError
from hnet_ntv2.genome import decode, encode, open_genome, read_bed, reverse_complement
from hnet_ntv2.inference.windows import plan_windows
from hnet_ntv2.pooling import pool
from tests.builders import ids, lively_model, random_letters

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model():
    return lively_model()


def sequences(*texts: str) -> list[NamedSequence]:
    return [NamedSequence(f"s{index}", encode(text.encode())) for index, text in enumerate(texts)]


def embed(model, *texts, **settings):
    return list(embed_sequences(model, sequences(*texts), EmbedSettings(per_base=True, **settings)))


def test_a_short_sequence_is_what_the_model_says_without_n(model):
    text = random_letters(60, 1)[:50] + "NNNN" + random_letters(40, 2)
    found = embed(model, text)[0]
    with torch.no_grad():
        expected = model.model(ids(text), strands="both").last_hidden_state[0].numpy()
    is_base = np.array([letter != "N" for letter in text])
    assert found.num_bases == is_base.sum()
    np.testing.assert_allclose(found.per_base, expected, atol=TOLERANCE)
    np.testing.assert_allclose(found.vector, expected[is_base].mean(0), atol=TOLERANCE)


def test_both_strands_of_a_sequence_have_the_same_embedding(model):
    texts = [random_letters(length, length) for length in (40, 333, 334)]
    forward = sequences(*texts)
    reverse = [NamedSequence(name, reverse_complement(bases)) for name, bases, *_ in forward]
    for layer in layer_names(model.config):
        settings = EmbedSettings((layer,), per_base=True, window=100, flank=20)
        pairs = zip(embed_sequences(model, forward, settings), embed_sequences(model, reverse, settings), strict=True)
        for here, there in pairs:
            np.testing.assert_allclose(here.vector, there.vector, atol=TOLERANCE, err_msg=layer)
            np.testing.assert_allclose(here.per_base, there.per_base[::-1], atol=TOLERANCE, err_msg=layer)
    one, other = (next(embed_sequences(model, each, EmbedSettings(strands="forward"))) for each in (forward, reverse))
    assert np.abs(one.vector - other.vector).max() > 1e-3, "the average over strands is what makes them equal"


def test_embeddings_do_not_depend_on_their_company(model):
    texts = [random_letters(length, length) for length in (5, 300, 77, 120, 1)]
    together = embed(model, *texts, window=100, flank=20)
    for each, text in zip(together, texts, strict=True):
        alone = embed(model, text, window=100, flank=20, batch_bases=1)[0]
        np.testing.assert_allclose(each.vector, alone.vector, atol=TOLERANCE)
        np.testing.assert_allclose(each.per_base, alone.per_base, atol=TOLERANCE)
    assert [each.name for each in together] == ["s0", "s1", "s2", "s3", "s4"]


def test_windows_give_each_base_once_and_what_its_window_says(model):
    text = random_letters(250, 7)
    cut = embed(model, text, window=120, flank=30)[0]
    assert cut.per_base.shape == (250, 32)
    plan = list(plan_windows(250, 120, 30))
    assert len(plan) == 4
    for start, end, keep_start, keep_end in plan:
        window = embed(model, text[start:end])[0].per_base
        np.testing.assert_allclose(
            cut.per_base[keep_start:keep_end], window[keep_start - start : keep_end - start], atol=TOLERANCE
        )
    np.testing.assert_allclose(cut.vector, cut.per_base.mean(0), atol=TOLERANCE)
    whole = embed(model, text, window=250)[0]
    np.testing.assert_allclose(whole.per_base, embed(model, text)[0].per_base, atol=TOLERANCE)


def test_the_window_defaults_to_the_length_of_training(caplog):
    trained = lively_model()
    trained.config.training_length = 100
    text = random_letters(250, 7)
    np.testing.assert_array_equal(embed(trained, text)[0].per_base, embed(trained, text, window=100)[0].per_base)
    assert caplog.messages == []
    for _ in range(2):
        embed(trained, text, window=250)
    assert len(caplog.messages) == 1, "it warns once"
    assert "a row of 250 bases: this model was trained on windows of 100" in caplog.text
    assert "1.849 bits per masked base at 768, 1.928 at 6,144" in caplog.text


def test_lower_case_is_upper_case(model):
    text = random_letters(50, 3)
    np.testing.assert_array_equal(embed(model, text)[0].vector, embed(model, text.lower())[0].vector)


def test_a_sequence_of_n_has_no_mean_and_stops_nothing(model):
    empty, full = embed(model, "NNNN", "ACGT")
    assert empty.num_bases == 0
    assert np.isnan(empty.vector).all()
    assert np.isfinite(empty.per_base).all()
    assert np.isfinite(full.vector).all()


def test_layers_are_those_of_the_model_at_its_bases(model):
    rows = ids(random_letters(40, 4))
    with torch.no_grad():
        output = model.model(rows, strands="forward", output_hidden_states=True)
        assert {*output.hidden_states, "last"} == set(layer_names(model.config))
        for name in layer_names(model.config)[:-1]:
            at_bases = ForwardPass(model.model, rows, "forward").base_vectors(name)[0]
            state = output.hidden_states[name][0]
            assert at_bases.shape == (40, 32)
            chunks = [output.stages[0].chunk_of[0]]
            chunks.append(output.stages[1].chunk_of[0][chunks[0]])
            for base in range(40):
                position = base
                if name.startswith("stage2"):
                    position = int(chunks[0][base])
                elif name.startswith("trunk"):
                    position = 1 + int(chunks[1][base])
                assert torch.equal(at_bases[base], state[position]), name
    with pytest.raises(ConfigError, match=r"'trunk_9' is unknown.*stage2_decoder, stage1_decoder, last"):
        embed(model, "ACGT", layers=("trunk_9",))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_files_give_back_what_was_written(model, suffix, tmp_path):
    path = tmp_path / f"vectors{suffix}"
    embedded = embed(model, "ACGTACGT", "NN", "GATTACA")
    assert write_embeddings(path, embedded, {"layer": "last"}) == (3, 1)
    table = read_embeddings(path)
    assert table.names == ("s0", "s1", "s2")
    assert table.settings == {"layer": "last"}
    assert table.num_bases.tolist() == [8, 0, 7]
    np.testing.assert_array_equal(table.embeddings, [each.vector for each in embedded])
    for stored, each in zip(table.per_base, embedded, strict=True):
        np.testing.assert_array_equal(stored, each.per_base)
    write_embeddings(path, embed_sequences(model, sequences("ACGT")), {})
    assert read_embeddings(path).per_base is None
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            assert sorted(stored.files) == ["embeddings", "names", "num_bases", "settings"]


def test_bad_files_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"\.npz, \.safetensors, \.parquet or \.h5ad"):
        write_embeddings(tmp_path / "vectors.pkl", [], {})
    for suffix in (".npz", ".safetensors", ".parquet", ".h5ad"):
        path = tmp_path / f"vectors{suffix}"
        with pytest.raises(DataError, match="no sequence"):
            write_embeddings(path, [], {})
        assert not path.exists()
        path.write_bytes(b"nonsense that is long enough to be looked at")
        with pytest.raises(DataError, match="no file of embeddings"):
            read_embeddings(path)


def test_fasta_records_come_one_by_one(tmp_path):
    path = tmp_path / "some.fa"
    path.write_text(">one first\nACGT\nacgt\n>two\nNN\n")
    assert [(each.name, each.bases.tolist()) for each in read_fasta(path)] == [
        ("one", encode(b"ACGTacgt").tolist()),
        ("two", encode(b"NN").tolist()),
    ]


def test_pools_are_those_of_whole_sequences_whatever_the_windows(model):
    """The slow definition: ``pooling.pool`` of all vectors of a sequence."""
    texts = ["NN" + random_letters(90, 1) + "NNNN" + random_letters(31, 2), random_letters(3, 3), random_letters(64, 4)]
    settings = {"layers": ("trunk_1", "last"), "pools": ("bins", "mean", "max", "first"), "window": 60, "flank": 10}
    for found, text in zip(embed(model, *texts, **settings), texts, strict=True):
        assert list(found.vectors)[:2] == ["trunk_1_bins", "trunk_1_mean"]
        is_counted = torch.tensor([[letter != "N" for letter in text]])
        for layer in settings["layers"]:
            hidden = embed(model, text, **(settings | {"layers": (layer,)}))[0].per_base
            for name in settings["pools"]:
                expected = pool(torch.from_numpy(hidden)[None], is_counted, name)[0]
                np.testing.assert_allclose(found.vectors[f"{layer}_{name}"], expected, atol=TOLERANCE)


def test_all_layers_come_from_one_pass(model, monkeypatch):
    passes = []
    run = model.model.run_strands
    monkeypatch.setattr(model.model, "run_strands", lambda *a, **k: passes.append(1) or run(*a, **k))
    found = embed(model, random_letters(40, 1), layers=("all",))[0]
    assert len(passes) == 1
    assert tuple(found.vectors) == tuple(f"{layer}_mean" for layer in layer_names(model.config))
    for layer in ("trunk_2", "last"):
        alone = embed(model, random_letters(40, 1), layers=(layer,))[0].vector
        np.testing.assert_allclose(found.vectors[f"{layer}_mean"], alone, atol=TOLERANCE)


def test_chunks_tile_the_sequence_and_are_the_models(model):
    text = random_letters(250, 7)
    whole = embed(model, text, per_chunk=True)[0].per_chunk
    with torch.no_grad():
        final = model.model(ids(text), strands="forward").final_chunks
    assert whole.spans[:, 0].tolist() == final.first_base[0].tolist()
    np.testing.assert_allclose(whole.vectors, final.hidden[0], atol=TOLERANCE)
    cut = embed(model, text, per_chunk=True, window=120, flank=30)[0].per_chunk
    for spans in (whole.spans, cut.spans):
        assert (spans[0, 0], spans[-1, 1]) == (0, 250)
        assert (spans[1:, 0] == spans[:-1, 1]).all()
        assert (spans[:, 1] > spans[:, 0]).all()


def test_context_is_seen_and_not_pooled(model):
    text = random_letters(150, 5)
    settings = EmbedSettings(pools=("mean", "bins"), per_base=True, per_chunk=True, window=100, flank=20)
    within = NamedSequence("s", encode(text.encode()), context=(30, 20))
    found = next(embed_sequences(model, [within], settings))
    whole = embed(model, text, window=100, flank=20)[0].per_base
    assert found.num_bases == 100
    np.testing.assert_allclose(found.per_base, whole[30:130], atol=TOLERANCE)
    np.testing.assert_allclose(found.vector, whole[30:130].mean(0), atol=TOLERANCE)
    assert (found.per_chunk.spans[0, 0], found.per_chunk.spans[-1, 1]) == (0, 100)
    alone = embed(model, text[30:130], window=100, flank=20)[0]
    assert np.abs(alone.vector - found.vector).max() > 1e-4


def test_regions_have_their_strand_and_context(tmp_path):
    (tmp_path / "g.fa").write_text(">c\nAACCGTTTGA\n")
    genome = open_genome(tmp_path / "g.fa", tmp_path / "cache")
    (tmp_path / "r.bed").write_text("c\t1\t4\nc\t2\t6\tname\t0\t-\nc\t8\t10\tname\t0\t+\n")
    intervals = read_bed(tmp_path / "r.bed", genome.contigs, stranded=True)
    found = list(read_regions(genome, intervals, context=3))
    assert [decode(each.bases).decode() for each in found] == ["AACCGTT", "CAAACGGTT", "TTTGA"]
    assert [each.context for each in found] == [(1, 3), (3, 2), (3, 0)]
    assert [(each.name, each.strand) for each in found] == [("c:1-4", "."), ("c:2-6", "-"), ("c:8-10", "+")]
    (tmp_path / "r.bed").write_text("c\t1\t4\tname\t0\tplus\n")
    with pytest.raises(GenomeError, match="line 1: 'plus' in column 6 is no strand"):
        read_bed(tmp_path / "r.bed", genome.contigs, stranded=True)
    assert len(read_bed(tmp_path / "r.bed", genome.contigs)) == 1
