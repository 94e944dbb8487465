"""Nothing of a model folder is loaded before it was checked; what is wrong is told by file and tensor."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.configuration_ntv2 import NTv2Config
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.errors import ConfigError, HNetNTV2Error, WeightsError
from hnet_ntv2.inference.model import check_model_folder, model_fingerprint
from hnet_ntv2.model_files import require_finite
from hnet_ntv2.modeling_hnet_ntv2 import (
    HNetNTV2ForMaskedLM,
    HNetNTV2ForSequenceClassification,
    HNetNTV2ForTokenClassification,
    HNetNTV2Model,
)
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM
from tests.broken_folders import BROKEN, INDEX, WEIGHTS, rewrite_tensor, sharded, with_settings
from tests.builders import tiny_model
from tests.unit.conversion.sources import TINY, copy_tiny

CLASSES = (
    HNetNTV2Model,
    HNetNTV2ForMaskedLM,
    HNetNTV2ForSequenceClassification,
    HNetNTV2ForTokenClassification,
)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "hf"
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "hf"))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_refused_by_every_class_and_for_a_source(folder, tmp_path, kind):
    change, message = BROKEN[kind]
    change(folder)
    for model_class in CLASSES:
        with pytest.raises(HNetNTV2Error, match=message) as caught:
            model_class.from_pretrained(folder)
        assert "\n" not in str(caught.value)
    source = copy_tiny(tmp_path / "source")
    change(source)
    for load in (NTv2ForMaskedLM.from_pretrained, lambda path: dict(open_source(str(path)).tensors())):
        with pytest.raises(HNetNTV2Error, match=message) as caught:
            load(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 10**9}, "d_model=1000000000 is over the most"),
        ({"n_main_layer": 10**7}, "n_main_layer=10000000 is over the most"),
        ({"n_enc_layer": 10**7}, "n_enc_layer=10000000 is over the most"),
        ({"vocab_size": 10**10}, "vocab_size=10000000000 is over the most"),
        ({"num_labels": 10**9}, "num_labels=1000000000 is over the most"),
        ({"d_model": 1 << 16, "n_main_layer": 100}, "make a model of over 1,"),
        ({"d_model": 4096, "n_main_layer": 50}, "asks for at least 3,.* values"),
        ({"n_head": 0}, "n_head=0 must be positive"),
        ({"rope_theta": float("nan")}, "rope_theta=nan must be float"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps=inf must be float"),
        ({"model_type": "esm"}, "holds a model of type 'esm'"),
        ({"transformers_weights": "other.safetensors"}, "names its weights by transformers_weights"),
        ({"dtype": "float33"}, "holds a setting that transformers refuses"),
    ],
)
def test_settings_that_ask_for_too_much_or_nonsense(folder, changes, message):
    with_settings(**changes)(folder)
    for load in (HNetNTV2ForMaskedLM.from_pretrained, HNetNTV2ForSequenceClassification.from_pretrained):
        with pytest.raises(HNetNTV2Error, match=message) as caught:
            load(folder)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        *({name: value} for name in ("hidden_size", "num_hidden_layers", "vocab_size") for value in (10**9, 0, -64)),
        *({"num_attention_heads": 0}, {"max_position_embeddings": 10**12}, {"layer_norm_eps": float("nan")}),
    ],
)
def test_a_sources_settings_that_cannot_be(tmp_path, changes):
    source = copy_tiny(tmp_path / "source")
    with_settings(**changes)(source)
    with pytest.raises(ConfigError, match=f"config.json: NTv2 setting {next(iter(changes))}="):
        open_source(str(source))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_weights_that_are_no_floating_point_numbers(folder, dtype):
    name = rewrite_tensor(folder, lambda tensor: tensor.to(dtype))
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(WeightsError, match=rf"model\.safetensors: '{name}' holds {kind} numbers"):
        HNetNTV2ForMaskedLM.from_pretrained(folder)


def test_a_sum_that_overflows_is_no_damage():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        most = torch.full((4,), torch.finfo(dtype).max, dtype=dtype)
        assert most.sum().isinf()
        require_finite("w", most, Path("f"))
        for value in (float("nan"), float("inf")):
            with pytest.raises(WeightsError, match="1 values of 'w' are NaN"):
                require_finite("w", most.clone().fill_(1).index_fill(0, torch.tensor([2]), value), Path("f"))


def test_what_is_no_folder(folder, tmp_path):
    for model_class in CLASSES:
        with pytest.raises(WeightsError, match=r"model\.safetensors is not a folder"):
            model_class.from_pretrained(folder / WEIGHTS)
        with pytest.raises(WeightsError, match="nowhere does not exist"):
            model_class.from_pretrained(tmp_path / "nowhere")


def test_an_unreadable_file_is_named(folder, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(WeightsError, match=r"config\.json cannot be read .*Permission denied"):
        check_model_folder(folder)


def split_in_two(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    parts = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for part in set(parts.values()):
        save_file({name: tensors[name] for name in tensors if parts[name] == part}, folder / part, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    (folder / WEIGHTS).unlink()


def test_the_fingerprint_covers_what_is_loaded_and_nothing_else(folder):
    whole = model_fingerprint(folder)
    (folder / "other.safetensors").write_bytes(b"never loaded")
    assert model_fingerprint(folder) == whole
    split_in_two(folder)
    assert torch.equal(HNetNTV2ForMaskedLM.from_pretrained(folder).head.source.bias, tiny_model().head.source.bias)
    sharded_print = model_fingerprint(folder)
    assert sharded_print != whole
    index = (folder / INDEX).read_text()
    (folder / INDEX).write_text(index.replace("part-1", "part-0"))
    assert model_fingerprint(folder) != sharded_print
    (folder / INDEX).write_text(index)
    part = folder / "part-1.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(part).items()}, part, {"format": "pt"})
    assert model_fingerprint(folder) != sharded_print


def test_a_link_inside_the_folder_is_followed(folder):
    sharded("a.safetensors", "b.safetensors", link=True)(folder)
    (folder / "a.safetensors").unlink()
    (folder / "a.safetensors").symlink_to("b.safetensors")
    HNetNTV2ForMaskedLM.from_pretrained(folder)


@pytest.fixture
def cache(folder, tmp_path):
    """A Hub cache that holds the model as somebody/model, its files as links to blobs, as the Hub's library does it."""
    home = tmp_path / "cache" / "models--somebody--model"
    snapshot = home / "snapshots" / COMMIT
    for place in (snapshot, home / "blobs", home / "refs"):
        place.mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)

    def fill() -> Path:
        for number, file in enumerate(sorted(folder.iterdir())):
            shutil.copy(file, home / "blobs" / f"{number:040d}")
            (snapshot / file.name).symlink_to(Path("../../blobs") / f"{number:040d}")
        return home.parent

    return fill


def test_a_model_of_the_hub_is_checked_in_its_cache(folder, cache):
    split_in_two(folder)
    place = cache()
    options = {"cache_dir": place, "local_files_only": True}
    model = HNetNTV2ForMaskedLM.from_pretrained("somebody/model", **options)
    assert torch.equal(model.head.source.bias, tiny_model().head.source.bias)
    part = next(place.glob("*/snapshots/*/part-1.safetensors"))
    tensors = load_file(part)
    save_file({name: tensor * torch.nan for name, tensor in tensors.items()}, part, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"part-1\.safetensors: .* are NaN"):
        HNetNTV2ForMaskedLM.from_pretrained("somebody/model", **options)


def test_an_index_of_the_hub_names_no_pickle(folder, cache):
    sharded("a.bin", "a.bin")(folder)
    with pytest.raises(WeightsError, match=r"index\.json names 'a\.bin'"):
        HNetNTV2ForMaskedLM.from_pretrained("somebody/model", cache_dir=cache(), local_files_only=True)


def test_an_adapter_beside_a_model_is_not_loaded_unseen(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="holds an adapter beside a model"):
        check_model_folder(folder)


def test_limits_let_every_real_model_through():
    for config in (HNetNTV2Config(), NTv2Config(), NTv2Config.from_json_file(TINY / "config.json")):
        assert config is not None
    large = HNetNTV2Config(d_model=4096, n_head=32, intermediate_size=32768, n_main_layer=48)
    assert large.least_values < 20e9
    model = tiny_model()
    assert model.config.least_values <= sum(parameter.numel() for parameter in model.parameters())
