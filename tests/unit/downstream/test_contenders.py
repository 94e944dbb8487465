import pytest

from hnet_ntv2.downstream.contenders import RunSettings, mode_settings, needs_seeds, read_model
from hnet_ntv2.errors import ConfigError, HNetNTV2Error

from ...builders import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("lr=0.1") / "hf"
    tiny_model().save_pretrained(place)
    return place


def test_a_model_is_known_by_its_files_and_not_by_its_path(folder, tmp_path):
    copy = tmp_path / "copy"
    tiny_model().save_pretrained(copy)
    other = tmp_path / "other"
    tiny_model(seed=1).save_pretrained(other)
    first, second, third = (read_model(str(path)).digest for path in (folder, copy, other))
    assert first == second != third


def test_random_weights_depend_on_the_settings_of_the_model_only(folder, tmp_path):
    other = tmp_path / "other"
    tiny_model(seed=1).save_pretrained(other)
    assert read_model(f"random:{folder}").digest == read_model(f"random:{other}").digest
    assert read_model(f"random:{folder}").digest != read_model(str(folder)).digest


def test_a_name_stands_before_an_equals_sign_and_folders_may_hold_one(folder):
    named = read_model(f"mine=random:{folder}")
    assert (named.name, named.source) == ("mine", f"random:{folder}")
    assert read_model(str(folder)).name == str(folder)  # its parent is named lr=0.1
    assert read_model("bundled").name == "bundled"
    assert read_model("far=hf:someone/model").source == "hf:someone/model"


@pytest.mark.parametrize("text", ["", "=bundled", "name=", "absent", "random:absent"])
def test_what_is_no_model_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HNetNTV2Error):
        read_model(text)


def test_only_what_draws_needs_seeds(folder):
    trained, random = read_model(str(folder)), read_model(f"random:{folder}")
    assert not needs_seeds("probe", trained)
    assert needs_seeds("probe", random)
    assert needs_seeds("finetune", trained)


def test_settings_that_change_no_result_are_not_part_of_a_unit():
    plain, shown = (mode_settings("finetune", RunSettings(finetune=each)) for each in ({}, {"progress": True}))
    assert plain == shown
    assert mode_settings("lora", RunSettings())["mode"] == "lora"
    assert mode_settings("finetune", RunSettings(finetune={"epochs": 2})) != plain
    with pytest.raises(ConfigError, match="'epoch'"):
        mode_settings("finetune", RunSettings(finetune={"epoch": 2}))
