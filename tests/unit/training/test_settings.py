"""Settings are filled strictly: unknown keys and wrong types are named with their place."""

import pytest

from hnet_ntv2.errors import ConfigError
from hnet_ntv2.training.settings import PretrainSettings, build_settings


def build(values):
    return build_settings(PretrainSettings, values, "my.yaml")


def test_the_defaults_are_those_of_the_specification():
    settings = PretrainSettings()
    assert (settings.trainer.max_steps, settings.batch.global_size, settings.seed) == (50_000, 512, 2222)
    assert (settings.optimizer.learning_rate, settings.optimizer.betas) == (6e-4, (0.9, 0.95))
    assert (settings.optimizer.weight_decay, settings.trainer.gradient_clip) == (0.1, 0.5)
    assert (settings.data.seq_length, settings.data.mask.rate, settings.trainer.precision) == (1024, 0.15, "16")
    assert settings.output_dir == "outputs/hnet_ntv2"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_stepz": 3}, r"unknown setting 'max_stepz' in my\.yaml"),
        ({"trainer": {"max_step": 3}}, r"unknown setting 'trainer\.max_step' in my\.yaml.*max_steps"),
        ({"data": {"mask": {"rat": 0.1}}}, r"'data\.mask\.rat'"),
        ({"trainer": {"max_steps": "true,"}}, r"trainer\.max_steps='true,' in my\.yaml must be int, not str"),
        ({"trainer": {"max_steps": 2.5}}, r"trainer\.max_steps=2\.5"),
        ({"trainer": {"gradient_checkpointing": "true,"}}, r"trainer\.gradient_checkpointing='true,'"),
        ({"trainer": {"compile": False}}, r"setting 'trainer\.compile' in my\.yaml: .*any more.*leave the line out"),
        (
            {"trainer": {"deterministic": True}},
            r"setting 'trainer\.deterministic' in my\.yaml: .*version 0\.1\.0 was the last",
        ),
        ({"validation": {"mask_free": False}}, r"'validation\.mask_free' in my\.yaml: .*version 0\.1\.0 was the last"),
        (
            {"warm_start": {"release": {"marginals_weight": [1.0]}}},
            r"'warm_start\.release\.marginals_weight' in my\.yaml: .*version 0\.1\.0 was the last",
        ),
        ({"trainer": {"devices": True}}, r"trainer\.devices=True"),
        ({"trainer": 3}, r"trainer=3"),
        ({"optimizer": {"betas": "0.9"}}, r"optimizer\.betas='0\.9'"),
        ({"optimizer": {"betas": [0.9]}}, r"optimizer\.betas=\[0\.9\] must be two numbers"),
        ({"optimizer": {"multipliers": {"base": "high"}}}, r"optimizer\.multipliers\.base='high'"),
        ({"trainer": {"strategy": "dp"}}, r"trainer\.strategy='dp' is none of auto, ddp, fsdp"),
        ({"trainer": {"max_steps": 0}}, r"trainer\.max_steps=0 must be positive"),
        ({"data": {"seq_length": 200_000}}, r"131072"),
        ({"seed": None}, r"seed=None"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        build(values)


def test_a_saved_config_may_name_a_removed_setting_at_its_old_default():
    removed = {"trainer": {"deterministic": False}, "callbacks": {"collapse_factor": 3.0}}
    removed |= {"validation": {"mask_free": True}, "warm_start": {"joint": {"marginals_weight": [0.0]}}}
    assert build(removed) == build({})


def test_what_converts_without_loss():
    settings = build(
        {"trainer": {"precision": 32, "gradient_clip": 1}, "optimizer": {"betas": [0, 0.5]}, "resume": None}
    )
    assert settings.trainer.precision == "32"
    assert settings.trainer.gradient_clip == 1.0
    assert settings.optimizer.betas == (0.0, 0.5)
    assert build({"trainer": {"gradient_clip": None}}).trainer.gradient_clip is None
