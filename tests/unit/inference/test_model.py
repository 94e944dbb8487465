"""Loading a model folder: what was saved, on the device asked for; anything else is one line that says the way out."""

import json
import shutil

import pytest
import torch

from hnet_ntv2.errors import ConfigError, WeightsError
from hnet_ntv2.inference.model import check_model_folder, choose_device, load_model, model_fingerprint
from hnet_ntv2.resources import bundled_genome, bundled_model
from tests.builders import ids, tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "hf"
    tiny_model(spread=0.05).save_pretrained(folder)
    return folder


def test_a_saved_model_comes_back_in_eval_mode(saved):
    model, rows = load_model(saved, "cpu"), ids("ACGTNACGTMM")
    assert not model.training
    assert model.device.type == "cpu"
    assert torch.equal(model(rows).logits, tiny_model(spread=0.05)(rows).logits)


def test_what_is_no_model_is_refused(saved, tmp_path):
    with pytest.raises(WeightsError, match="nowhere is not a folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"holds no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "esm"}))
    with pytest.raises(WeightsError, match="type 'esm'"):
        load_model(tmp_path)
    shutil.copy(saved / "config.json", tmp_path)
    with pytest.raises(WeightsError, match=r"no \.safetensors"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read as safetensors"):
        load_model(tmp_path)


def test_devices():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    with pytest.raises(ConfigError, match="--device abacus cannot be used here"):
        choose_device("abacus")


def test_fingerprint_follows_the_weights_and_not_the_name(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    assert model_fingerprint(tmp_path / "copy") == model_fingerprint(saved)
    tiny_model(seed=1, spread=0.05).save_pretrained(tmp_path / "copy")
    assert model_fingerprint(tmp_path / "copy") != model_fingerprint(saved)


def test_bundled_files_are_found_or_the_way_out_is_told(monkeypatch, tmp_path):
    assert bundled_genome().is_file()
    monkeypatch.setattr("hnet_ntv2.resources._FOLDER", tmp_path)
    with pytest.raises(WeightsError, match=r"no bundled model.*--model"):
        bundled_model()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing.*--model"):
        bundled_model()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    assert check_model_folder(None) == tmp_path / "model"
