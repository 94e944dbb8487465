"""Every YAML in configs/ composes; a user's own YAML works from anywhere and its mistakes are named with the file."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from hnet_ntv2.cli.experiment import config_folder, load_settings
from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config, own_field_names
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.training.phases import PHASES
from hnet_ntv2.training.settings import PretrainSettings, build_settings

CONFIGS = config_folder()
GROUPS = {"data", "optimizer", "scheduler", "trainer", "callbacks", "logger", "warm_start"}


def names(group: str) -> list[str]:
    return sorted(str(path.relative_to(CONFIGS / group).with_suffix("")) for path in (CONFIGS / group).rglob("*.yaml"))


def test_no_yaml_is_left_untested():
    tested = {f"{group}/{name}" for group in {*GROUPS, "model", "experiment"} for name in names(group)}
    found = {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml")}
    assert found - tested <= {"pretrain", "evaluate"}
    assert len(names("experiment")) >= 2


@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_composes_and_its_model_exists(experiment):
    settings = load_settings(experiment)
    assert HNetNTV2Config(**settings.model).num_stages == 2
    build_settings(
        PretrainSettings, {k: v for k, v in read(f"experiment/{experiment}").items() if k != "defaults"}, experiment
    )


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in sorted(GROUPS) for name in names(group)])
def test_every_group_fills_its_settings_completely(group, name):
    values = read(f"{group}/{name}")
    complete = dataclasses.asdict(getattr(PretrainSettings(), group))
    assert flat_names(values) == flat_names(complete)
    composed = load_settings(overrides=[f"{group}={name}"])
    assert getattr(composed, group) == getattr(build_settings(PretrainSettings, {group: values}, name), group)


@pytest.mark.parametrize("name", names("model"))
def test_every_model_is_complete_and_known(name):
    values = read(f"model/{name}")
    assert set(values) <= set(own_field_names())
    assert load_settings(overrides=[f"model={name}"]).model == values
    HNetNTV2Config(**values)


def test_yaml_holds_values_only():
    for path in CONFIGS.rglob("*.yaml"):
        assert "${" not in path.read_text(), path


def test_the_recommended_phases_are_those_of_every_experiment(tmp_path):
    steps, rates = {}, {}
    for path in (None, user_yaml(tmp_path, "trainer:\n  max_steps: 20000\n")):
        warm = load_settings(config_path=path, options={"init": "folder"}).warm_start
        steps = {phase: getattr(warm, phase).steps for phase in PHASES}
        rates = {phase: set(getattr(warm, phase).multipliers.items()) for phase in PHASES}
        assert steps == {"align": 1000, "release": 10000, "joint": 0}
        groups = ("trunk", "kmer_embedding", "source_head")
        assert rates["align"] == {(group, 0.0) for group in groups}
        assert rates["release"] == rates["joint"] == {(group, 0.1) for group in groups}
        assert [getattr(warm, phase).grid_share for phase in PHASES] == [(1.0,), (1.0, 0.0), (0.0,)]
        assert [getattr(warm, phase).ratio_weight for phase in PHASES] == [(0.0,), (0.0, 1.0), (1.0,)]
        assert {getattr(warm, phase).anchor_share for phase in PHASES} == {(1.0,)}
        assert warm.when == "graft"


def test_the_demo_leaves_the_grid_before_it_ends():
    settings = load_settings("demo/hnet_ntv2_tiny")
    assert settings.warm_start.align.steps + settings.warm_start.release.steps <= settings.trainer.max_steps // 2


def test_loader_processes_are_counted_on_the_machine_that_runs():
    assert load_settings().data.num_workers is None


def test_the_default_is_the_specification():
    settings, fallback = load_settings(), PretrainSettings()
    assert settings.trainer == fallback.trainer
    assert settings.batch == fallback.batch
    assert settings.optimizer == fallback.optimizer
    assert settings.scheduler == fallback.scheduler
    assert settings.data.mask == fallback.data.mask
    assert (settings.seed, settings.output_dir) == (fallback.seed, fallback.output_dir)


def flat_names(values: dict, prefix: str = "") -> set[str]:
    nested = {"multipliers"}  # groups that a phase does not name keep the optimizer's
    found = set()
    for name, value in values.items():
        deeper = isinstance(value, dict) and name not in nested
        found |= flat_names(value, f"{prefix}{name}.") if deeper else {prefix + name}
    return found


def read(name: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))


def user_yaml(folder: Path, text: str) -> Path:
    path = folder / "my own experiment.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("header", ["", "# @package _global_\n", "# my notes\n"])
def test_a_users_yaml_may_lie_anywhere_and_choose_groups(tmp_path, header):
    path = user_yaml(tmp_path, header + "defaults:\n  - override /model: hnet_ntv2_tiny\ntrainer:\n  max_steps: 7\n")
    settings = load_settings(config_path=path)
    assert settings.trainer.max_steps == 7
    assert settings.model == read("model/hnet_ntv2_tiny")


def test_options_beat_the_yaml_and_overrides_beat_options(tmp_path):
    path = user_yaml(tmp_path, "trainer:\n  max_steps: 7\n  devices: 1\nseed: 1\n")
    options = {"trainer.max_steps": 8, "seed": 2}
    settings = load_settings(config_path=path, options=options, overrides=["trainer.max_steps=9"])
    assert (settings.trainer.max_steps, settings.seed) == (9, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer:\n  max_stepz: 7\n", r"unknown setting 'trainer\.max_stepz' in .*my own experiment\.yaml"),
        ("lerning_rate: 1\n", r"unknown setting 'lerning_rate' in .*my own experiment\.yaml"),
        ("model:\n  d_modl: 7\n", r"unknown setting 'model\.d_modl' in .*my own experiment\.yaml"),
        (
            'trainer:\n  gradient_checkpointing: "no,"\n',
            r"trainer\.gradient_checkpointing='no,' in .*my own experiment\.yaml must be bool",
        ),
        ("trainer:\n  compile: false\n", r"'trainer\.compile' in .*my own experiment\.yaml: .*leave the line out"),
        ('model:\n  bidirectional: "true,"\n', r"bidirectional='true,' must be bool .*my own experiment\.yaml"),
        ("defaults:\n  - override /model: nothing\n", r"my own experiment\.yaml: .*'model/nothing'"),
        ("trainer: [1\n", r"my own experiment\.yaml is not a readable YAML file"),
        ("- 1\n", r"my own experiment\.yaml must hold settings"),
        ("model:\n  d_model: 10\n", r"d_model=10 must be a multiple .*my own experiment\.yaml"),
    ],
)
def test_mistakes_in_a_users_yaml_name_the_file(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(config_path=user_yaml(tmp_path, text))


def test_an_override_may_set_what_the_models_yaml_does_not_list():
    assert load_settings(overrides=["model.initializer_range=0.5"]).model["initializer_range"] == 0.5


def test_an_override_of_a_removed_setting_says_so():
    with pytest.raises(ConfigError, match=r"'trainer\.compile' in the composed settings: .*leave the line out"):
        load_settings(overrides=["trainer.compile=true"])


def test_any_setting_of_a_phase_can_be_overridden():
    settings = load_settings(
        overrides=[
            *("warm_start.release.hidden_state_weight=[1.0, 0.0]", "warm_start.align.hidden_state_weight=[0.5]"),
            *("warm_start.align.multipliers.base=0.5", "validation.grid=false", "warm_start.joint.grid_share=[0.1]"),
        ]
    )
    warm = settings.warm_start
    assert warm.release.hidden_state_weight == (1.0, 0.0)
    assert warm.align.hidden_state_weight == (0.5,)
    assert warm.align.multipliers == {"trunk": 0.0, "kmer_embedding": 0.0, "source_head": 0.0, "base": 0.5}
    assert warm.joint.grid_share == (0.1,)
    assert not settings.validation.grid


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_stepz=1", "max_stepz"),
        ("nonsense", "nonsense"),
        ("warm_start.release.stepz=1", "stepz"),
        ("warm_start.nothing.steps=1", "nothing"),
        ("trainer.max_steps=x", r"trainer\.max_steps='x'"),
        ("+new.key=1", r"unknown setting 'new'"),
        ("model=nothing", "nothing"),
    ],
)
def test_mistakes_in_overrides_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(overrides=[override])


@pytest.mark.parametrize(
    "override",
    [
        *(f"{group}={value}" for group in ("model", "data", "experiment") for value in ("-1", "[1,2]", "null", "1.5")),
        *(
            "model={a:1}",
            "model=${seed}",
            "model=''",
            "~model",
            "data=../../x",
            "trainer=[1]",
            "optimizer.multipliers=3",
        ),
        *("hydra=null", "hydra.searchpath=3", "model@x=hnet_ntv2", "=", "--help", "a/b=c", "seed=${seed}", "init=3"),
        *("data.mask=[1]", "warm_start.align=3", "trainer.max_steps=1e400", "trainer.max_steps=choice(1,2)"),
        *("optimizer.learning_rate=nan", "optimizer.eps=inf", "data.mask.rate=-inf", "scheduler.final_divisor=nan"),
        *("model.d_model=1000000000", "model.n_main_layer=10000000", "model.rope_theta=nan"),
    ],
)
def test_an_override_of_any_form_that_cannot_be_is_told_on_one_line(override):
    with pytest.raises(ConfigError) as caught:
        load_settings(overrides=[override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["model=-1", "model=[1,2]", "model=null"])
def test_an_override_at_which_hydra_itself_stumbles_is_named(override):
    with pytest.raises(ConfigError, match="Hydra cannot use .*" + re.escape(override)):
        load_settings(overrides=[override])


@pytest.mark.parametrize("override", ["~model", "~batch"])
def test_a_group_that_overrides_take_away_is_named(override):
    options = {"init": "folder", "batch.global_size": 8, "trainer.max_steps": 3}
    with pytest.raises(ConfigError, match=rf"the overrides leave {override[1:]}=None"):
        load_settings(overrides=[override], options=options)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--config-path .*none\.yaml"):
        load_settings(config_path=tmp_path / "none.yaml")


def test_with_a_folder_to_start_from_only_chosen_model_settings_are_compared(tmp_path):
    assert load_settings(options={"init": "folder"}).model == {}
    assert load_settings(options={"init": "folder"}, overrides=["model.n_head=4"]).model == {"n_head": 4}
    path = user_yaml(tmp_path, "model:\n  d_model: 64\n")
    assert load_settings(config_path=path, options={"init": "folder"}).model == {"d_model": 64}
    assert load_settings(options={"init": "f"}, overrides=["model=hnet_ntv2_tiny"]).model == read(
        "model/hnet_ntv2_tiny"
    )


def test_no_key_of_a_file_is_given_twice():
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader, node):
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    for path in CONFIGS.rglob("*.yaml"):
        yaml.load(path.read_text(), Strict)
