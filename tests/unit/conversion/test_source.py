"""Finding, downloading and checking a source: every error names the tensor, the setting or the way out."""

import errno
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from hnet_ntv2.conversion import source as source_module
from hnet_ntv2.conversion.source import files_to_fetch, open_source
from hnet_ntv2.errors import ConfigError, HNetNTV2Error, InputError, WeightsError
from hnet_ntv2.tokenization_hnet_ntv2 import NTv2Tokenizer, kmer_vocabulary
from tests.unit.conversion.sources import SOME_KEY, TINY, copy_tiny, rewrite_config, rewrite_weights

NAME = "somebody/nucleotide-transformer"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    return copy_tiny(tmp_path / "tiny")


def test_local_folder(folder):
    source = open_source(str(folder))
    assert (source.name, source.revision, source.is_local, source.kmer_size) == ("tiny", None, True, 4)
    tensors = load_file(folder / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: t.shape for n, t in source.tensors()}
    assert torch.equal(source.get(SOME_KEY), tensors[SOME_KEY])


def test_shards_are_read_through_their_index(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for part in set(parts.values()):
        save_file({name: tensors[name] for name in tensors if parts[name] == part}, folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    source = open_source(str(folder))
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in source.tensors())
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"part-1\.safetensors does not exist"):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(SOME_KEY), rf"missing: {SOME_KEY}"),
        (lambda t: t.update({"esm.extra": torch.zeros(1)}), "superfluous: esm.extra"),
        (lambda t: t.update({SOME_KEY: torch.zeros(63)}), rf"misshapen: {SOME_KEY} \(63,\) instead of \(64,\)"),
        (lambda t: t.update({SOME_KEY: torch.zeros(64).int()}), rf"not floating point: {SOME_KEY}"),
        (
            lambda t: t.update({"esm.encoder.layer.1.attention.self.rotary_embeddings.inv_freq": torch.ones(8)}),
            "esm.encoder.layer.1.attention.self.rotary_embeddings.inv_freq holds other rotary frequencies",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, message):
    rewrite_weights(folder, change)
    with pytest.raises(WeightsError, match=message):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 268}, "misshapen: esm.embeddings.word_embeddings.weight"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type='absolute' is not implemented"),
        ({"num_hidden_layers": 5}, "missing: esm.encoder.layer.4"),
    ],
)
def test_settings_that_do_not_fit(folder, changes, message):
    rewrite_config(folder, **changes)
    with pytest.raises(HNetNTV2Error, match=message):
        open_source(str(folder))


def test_vocabulary_is_checked_where_there_is_one(folder):
    NTv2Tokenizer(k=4).save_vocabulary(str(folder))
    assert open_source(str(folder)).kmer_size == 4
    NTv2Tokenizer(k=3).save_vocabulary(str(folder))
    with pytest.raises(ConfigError, match=r"3-mers.*4-mers"):
        open_source(str(folder))
    tokens = list(kmer_vocabulary(4))
    tokens[7], tokens[8] = tokens[8], tokens[7]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    with pytest.raises(InputError, match="not a vocabulary of NTv2"):
        open_source(str(folder))


def test_truncated_and_foreign_files(folder):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(WeightsError, match="cut short"):
        open_source(str(folder))
    weights.write_bytes(b"PK\x03\x04" + content)
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        open_source(str(folder))
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="refs/pr/3"):
        open_source(str(folder))


def test_no_such_folder_and_a_revision_for_one(folder):
    with pytest.raises(WeightsError, match="neither a folder nor a Hub name"):
        open_source("no/such/folder")
    with pytest.raises(ConfigError, match="--revision main says nothing about the local folder"):
        open_source(str(folder), "main")


def test_only_what_is_needed_is_fetched():
    present = {"README.md", "config.json", "vocab.txt", "model.safetensors", "pytorch_model.bin", "modeling_esm.py"}
    assert files_to_fetch(present, NAME) == ["config.json", "vocab.txt", "model.safetensors"]
    with pytest.raises(WeightsError, match="--revision refs/pr/3"):
        files_to_fetch({"config.json", "pytorch_model.bin"}, NAME)
    with pytest.raises(WeightsError, match=r"no config\.json"):
        files_to_fetch({"model.safetensors"}, NAME)


@pytest.fixture
def hub(monkeypatch):
    """A Hub that knows one model, the tiny reference."""
    fetched = []

    def model_info(self, name, revision=None):
        files = ("config.json", "model.safetensors", "modeling_esm.py", "pytorch_model.bin")
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=file) for file in files])

    def fetch(name, file, revision=None):
        fetched.append((name, file, revision))
        return str(TINY / file)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    return fetched


def test_download_pins_the_commit(hub):
    source = open_source(NAME)
    assert (source.name, source.revision, source.is_local) == (NAME, COMMIT, False)
    assert hub == [(NAME, "config.json", COMMIT), (NAME, "model.safetensors", COMMIT)]


def test_no_network_says_so_and_how_to_pass_a_folder(monkeypatch, tmp_path):
    def unreachable(self, name, revision=None):
        raise ConnectionError("nobody there")

    def absent(name, revision=None, local_files_only=False):
        assert local_files_only
        return str(tmp_path)  # a snapshot that an interrupted download began

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    monkeypatch.setattr("huggingface_hub.snapshot_download", absent)
    with pytest.raises(WeightsError, match=r"no network.*nobody there.*--ntv2-model DIR"):
        open_source(NAME)


def test_what_was_downloaded_is_found_without_a_network(monkeypatch, tmp_path, hub):
    storage = tmp_path / f"models--{NAME.replace('/', '--')}"
    snapshot = copy_tiny(storage / "snapshots" / COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file, revision: str(snapshot / file))
    assert open_source(NAME, "refs/pr/3").revision == open_source(NAME).revision == COMMIT

    def unreachable(self, name, revision=None):
        raise ConnectionError("nobody there")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    for revision in (None, "main", "refs/pr/3", COMMIT):
        assert open_source(NAME, revision).revision == COMMIT
    with pytest.raises(WeightsError, match="no network"):
        open_source(NAME, "another")


def test_a_full_disk_is_not_taken_for_a_missing_network(monkeypatch, hub):
    def full(name, file, revision):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(WeightsError, match=r"cannot be stored: .*No space left.*HF_HOME"):
        open_source(NAME)


def test_without_a_network_the_cached_snapshot_is_used_and_told(monkeypatch, tmp_path, caplog):
    snapshot = copy_tiny(tmp_path / "snapshots" / COMMIT)

    def unreachable(self, name, revision=None):
        raise ConnectionError("nobody there")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: str(snapshot))
    with caplog.at_level("WARNING", source_module.__name__):
        assert open_source(NAME).revision == COMMIT
    assert "cached snapshot" in caplog.text
    assert open_source(str(snapshot)).revision == COMMIT
