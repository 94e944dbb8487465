"""Loading NTv2: strict about every tensor and setting, safetensors only, nothing left random."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hnet_ntv2.configuration_ntv2 import NTv2Config
from hnet_ntv2.errors import ConfigError, InputError, WeightsError
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM
from tests.unit.conversion.sources import SOME_KEY, TINY, copy_tiny, rewrite_config, rewrite_weights


@pytest.fixture
def folder(tmp_path) -> Path:
    return copy_tiny(tmp_path)


def test_loaded_tensors_are_those_of_the_file(folder):
    loaded = NTv2ForMaskedLM.from_pretrained(folder).state_dict()
    stored = load_file(folder / "model.safetensors")
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)


def test_save_and_load_round_trip_is_exact(folder, tmp_path):
    model = NTv2ForMaskedLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "saved")
    again = NTv2ForMaskedLM.from_pretrained(tmp_path / "saved")
    assert again.config.layer_norm_eps == model.config.layer_norm_eps == 1e-5
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_shards_are_read_through_their_index(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(tensors)}
    for part in sorted(set(weight_map.values())):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == part}, folder / part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    loaded = NTv2ForMaskedLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"part-1\.safetensors"):
        NTv2ForMaskedLM.from_pretrained(folder)
    index.write_text(json.dumps({"weight_map": {"x": "../elsewhere.safetensors"}}))
    with pytest.raises(WeightsError, match="no file name inside"):
        NTv2ForMaskedLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(SOME_KEY), f"missing: {SOME_KEY}"),
        (lambda tensors: tensors.update({"esm.pooler.weight": torch.zeros(2)}), r"superfluous: esm\.pooler\.weight"),
        (
            lambda tensors: tensors.update({SOME_KEY: torch.zeros(63)}),
            rf"misshapen: {SOME_KEY} \(63,\) instead of \(64,\)",
        ),
        (
            lambda tensors: tensors.update({SOME_KEY: torch.zeros(64, dtype=torch.int8)}),
            f"not floating point: {SOME_KEY}",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(folder, change, message):
    rewrite_weights(folder, change)
    with pytest.raises(WeightsError, match=message):
        NTv2ForMaskedLM.from_pretrained(folder)


def test_a_folder_with_only_a_pickle_is_refused_unopened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(WeightsError, match=r"never loaded.*refs/pr/3"):
        NTv2ForMaskedLM.from_pretrained(folder)


def test_absent_and_damaged_files_are_named(folder, tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere/config\.json does not exist"):
        NTv2ForMaskedLM.from_pretrained(tmp_path / "nowhere")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read"):
        NTv2ForMaskedLM.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(WeightsError, match="holds neither"):
        NTv2ForMaskedLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token_dropout", True),
        ("add_bias_fnn", True),
        ("tie_word_embeddings", True),
        ("emb_layer_norm_before", True),
        ("position_embedding_type", "absolute"),
        ("is_folding_model", True),
        ("hidden_dropout_prob", 0.1),
        ("attention_probs_dropout_prob", 0.1),
    ],
)
def test_a_setting_that_is_not_implemented_is_refused_by_name(folder, name, value):
    rewrite_config(folder, **{name: value})
    with pytest.raises(ConfigError, match=name):
        NTv2Config.from_json_file(folder / "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_sise": 64}, "unknown .* hidden_sise"),
        ({"hidden_size": "64"}, "hidden_size='64' must be int"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True must be int"),
        ({"num_attention_heads": 64}, "hidden_size=64 must be a multiple"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(folder, changes, message):
    rewrite_config(folder, **changes)
    with pytest.raises(ConfigError, match=message):
        NTv2Config.from_json_file(folder / "config.json")


def test_a_config_without_its_eps_is_refused(folder):
    settings = json.loads((folder / "config.json").read_text())
    del settings["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="lacks layer_norm_eps"):
        NTv2ForMaskedLM.from_pretrained(folder)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_config_that_is_no_json_object_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        NTv2ForMaskedLM.from_pretrained(folder)


def test_foreign_ids_and_masks_are_refused():
    model = NTv2ForMaskedLM.from_pretrained(TINY)
    with pytest.raises(InputError, match="vocabulary of 267"):
        model(torch.tensor([[3, 4101]]))
    with pytest.raises(InputError, match="differ in shape"):
        model(torch.tensor([[3, 6]]), torch.ones(1, 3))


@torch.no_grad()
def test_rows_do_not_see_each_other_nor_their_padding(rng):
    model = NTv2ForMaskedLM.from_pretrained(TINY)
    long, short = (torch.randint(6, 262, (length,), generator=rng) for length in (20, 7))
    batch = torch.ones(3, 20, dtype=torch.int64)
    batch[0], batch[1, :7] = long, short
    together = model(batch).logits
    torch.testing.assert_close(together[0], model(long[None]).logits[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(together[1, :7], model(short[None]).logits[0], rtol=0, atol=1e-5)
    assert (together[1, 7:] == 0).all()
    assert (together[2] == 0).all()
