"""Features of all layers and kinds of encoders against one row at a time and ``pool``; the cache; random weights."""

import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from hnet_ntv2 import HNetNTV2ForMaskedLM, NTv2ForMaskedLM, NTv2Tokenizer
from hnet_ntv2.downstream import features as own
from hnet_ntv2.downstream.features import NUM_BINS, POOLS, open_encoder, pooled_features
from hnet_ntv2.embedding.layers import ForwardPass
from hnet_ntv2.errors import ConfigError, InputError, WeightsError
from hnet_ntv2.pooling import pool
from hnet_ntv2.vocabulary import encode, is_clean_base
from tests.builders import lively_model, random_letters
from tests.unit.conversion.sources import TINY, copy_tiny

TEXTS = [
    "NNN",
    *(random_letters(length, length, "ACGTN") for length in (40, 7, 61)),
    "acgtACGTTA",
    random_letters(61, 9),
]
ROWS = [encode(text.encode()) for text in TEXTS]


@pytest.fixture
def hnet(tmp_path):
    lively_model().save_pretrained(tmp_path / "hnet")
    return tmp_path / "hnet"


@pytest.fixture
def bert(tmp_path):
    """Any other model with a tokenizer of its own: words of one letter."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"acgtn", *(f"##{letter}" for letter in "acgtn")]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=80)
    torch.manual_seed(3)  # none of the seeds of random encoders below
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=80, **sizes)
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("strands", ["forward", "both"])
def test_hnet_features_are_pooled_base_vectors(hnet, strands):
    encoder = open_encoder(hnet, device="cpu")
    layers = ["embeddings", "trunk_1", "last"]
    found = pooled_features(encoder, ROWS, layers, strands=strands)
    model = HNetNTV2ForMaskedLM.from_pretrained(hnet).eval()
    for index, row in enumerate(ROWS):
        ids = torch.from_numpy((row & 0x7F).astype(np.int64))[None]
        for layer in layers:
            with torch.inference_mode():
                vectors = ForwardPass(model.model, ids, strands).base_vectors(layer)
            for how in POOLS:
                expected = pool(vectors, is_clean_base(ids), how, NUM_BINS)[0]
                np.testing.assert_allclose(found[layer, how][index], expected, atol=1e-5, equal_nan=True)
    assert np.isnan(found["last", "mean"][0]).all()
    assert all(vectors.dtype == np.float32 for vectors in found.values())


def token_vectors(folder, text: str, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States of one row's tokens, the last counted from the end, and which count."""
    if "bert" in str(folder):
        model, tokenizer = BertModel.from_pretrained(folder).eval(), BertTokenizerFast.from_pretrained(folder)
        output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        states = output.hidden_states
    else:
        model, tokenizer = NTv2ForMaskedLM.from_pretrained(folder), NTv2Tokenizer(k=4)
        output = model.encode(tokenizer(text, return_tensors="pt")["input_ids"], output_hidden_states=True)
        states = (*output.hidden_states, output.last_hidden_state)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    counted = torch.tensor([[set(token.upper().strip("#")) <= set("ACGT") for token in tokens]])
    return states[layer], counted


@pytest.mark.parametrize("kind", ["ntv2", "bert"])
def test_token_features_are_pooled_states(kind, bert, tmp_path):
    folder = bert if kind == "bert" else copy_tiny(tmp_path / "ntv2")
    encoder = open_encoder(folder, device="cpu")
    assert encoder.layers[0] == "embeddings"
    assert encoder.layers[-1] == "last"
    found = pooled_features(encoder, ROWS, encoder.layers)
    for index, text in enumerate(TEXTS):
        for place in (0, 1, len(encoder.layers) - 1):
            with torch.inference_mode():
                states, counted = token_vectors(folder, text.upper(), place)
            for how in POOLS:
                expected = pool(states, counted, how, NUM_BINS)[0]
                mine = found[encoder.layers[place], how][index]
                np.testing.assert_allclose(mine, expected, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("kind", ["ntv2", "bert", "hnet"])
def test_both_strands_give_the_reverse_complement_the_same_mean(kind, bert, hnet, tmp_path):
    folder = {"bert": bert, "hnet": hnet, "ntv2": copy_tiny(tmp_path / "ntv2")}[kind]
    encoder = open_encoder(folder, device="cpu")
    rows = [ROWS[1], own.reverse_complement(ROWS[1])]
    found = pooled_features(encoder, rows, ["last"], ("mean", "max", "bins"), strands="both")
    for how in ("mean", "max"):
        np.testing.assert_allclose(*found["last", how], atol=1e-5)
    alone = pooled_features(encoder, rows, ["last"], ("mean",))["last", "mean"]
    np.testing.assert_allclose(alone.mean(0), found["last", "mean"][0], atol=1e-5)


def test_random_weights_follow_the_seed_and_leave_the_callers_generator_alone(hnet, bert):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for folder in (hnet, TINY, bert):
        first, again, other = (
            pooled_features(open_encoder(f"random:{folder}", seed=seed, device="cpu"), ROWS[1:3], ["last"])[
                "last", "mean"
            ]
            for seed in (0, 0, 1)
        )
        assert np.array_equal(first, again)
        assert not np.allclose(first, other)
        trained = pooled_features(open_encoder(folder, device="cpu"), ROWS[1:3], ["last"])["last", "mean"]
        assert not np.allclose(first, trained)
    assert torch.equal(torch.get_rng_state(), before)


def test_features_come_from_the_cache_for_the_same_model_rows_and_settings_only(hnet, tmp_path, monkeypatch):
    encoder, cache = open_encoder(hnet, device="cpu"), tmp_path / "cache"
    first = pooled_features(encoder, ROWS, ["last"], ("mean", "bins"), cache=cache)
    calls = []
    whole = type(encoder).encode
    monkeypatch.setattr(type(encoder), "encode", lambda *args: calls.append(1) or whole(*args))
    again = pooled_features(encoder, ROWS, ["last"], ("mean", "bins"), cache=cache)
    assert not calls
    assert all(np.array_equal(again[key], first[key], equal_nan=True) for key in first)
    pooled_features(encoder, ROWS[:-1], ["last"], ("mean", "bins"), cache=cache)
    pooled_features(encoder, ROWS, ["last"], ("mean", "bins"), strands="both", cache=cache)
    pooled_features(encoder, ROWS, ["trunk_1"], ("mean", "bins"), cache=cache)
    pooled_features(open_encoder(f"random:{hnet}", device="cpu"), ROWS, ["last"], ("mean", "bins"), cache=cache)
    assert len(calls) == 4
    assert len(list(cache.glob("*.npz"))) == 5


def test_what_cannot_be_is_named(hnet, bert, tmp_path):
    encoder = open_encoder(hnet, device="cpu")
    with pytest.raises(ConfigError, match="layer 'trunk_9' is unknown; choose from embeddings"):
        pooled_features(encoder, ROWS, ["trunk_9"])
    with pytest.raises(ConfigError, match="pool 'median' is unknown"):
        pooled_features(encoder, ROWS, ["last"], ("median",))
    with pytest.raises(WeightsError, match="is no folder with a config"):
        open_encoder(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(WeightsError, match=r"other holds neither model\.safetensors"):
        open_encoder(tmp_path / "other")
    with pytest.raises(InputError, match="a row of 100 bases has 102 tokens; at most 80"):
        pooled_features(open_encoder(bert, device="cpu"), [encode(b"ACGT "[:4] * 25)], ["last"])
