"""Settings of a pre-training run, composed of the packaged YAML, a user's YAML, options and Hydra overrides."""

import dataclasses
import functools
import re
import tempfile
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..configuration_hnet_ntv2 import REMOVED_SETTINGS, HNetNTV2Config, own_field_names
from ..errors import ConfigError
from ..training.settings import PretrainSettings, build_settings
from .yaml_file import read_yaml

DEFAULT_EXPERIMENT = "hg38/hnet_ntv2"
DEMO_EXPERIMENT = "demo/hnet_ntv2_tiny"
_PACKAGE_LINE = "# @package _global_\n"
_GROUPS = tuple(
    name for name, kind in typing.get_type_hints(PretrainSettings).items() if dataclasses.is_dataclass(kind)
)


def config_folder() -> Path:
    """The folder of the YAML files: inside an installed package, or beside it in a checkout.

    Raises:
        ConfigError: Neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "pretrain.yaml").is_file():
            return folder
    raise ConfigError(f"the YAML files of the package are neither in {package / 'configs'} nor in {package.parent}")


def load_settings(
    experiment: str | None = None,
    config_path: Path | None = None,
    options: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> PretrainSettings:
    """Settings of a pre-training run. Later sources win: defaults, experiment, ``options``, ``overrides``.

    With an ``init`` folder, the model settings are that folder's; only those that the user's YAML or the overrides name
    are kept, to be compared with it.

    Args:
        experiment: A packaged experiment such as "hg38/hnet_ntv2".
        config_path: A user's own experiment YAML instead, from anywhere.
        options: Values by dotted name, such as ``{"trainer.max_steps": 10}``.
        overrides: Hydra overrides such as ``model.n_main_layer=12``.

    Raises:
        ConfigError: A file that cannot be read, an unknown key (named with its file), a value of the wrong type.
    """
    user_values = {} if config_path is None else read_experiment(config_path)
    composed = compose_experiment(experiment or DEFAULT_EXPERIMENT, config_path, overrides)
    _require_groups(composed)
    overridden = {override.lstrip("+~").partition("=")[0] for override in overrides}
    for name, value in (options or {}).items():
        if name not in overridden:
            *groups, last = name.split(".")
            functools.reduce(dict.__getitem__, groups, composed)[last] = value
    # A saved model has its own settings; those of the default experiment must not contradict them.
    if composed.get("init") is not None:
        model = composed["model"]
        chosen = {name.removeprefix("model.") for name in overridden} | set(user_values.get("model", {}))
        composed["model"] = model if "model" in overridden else {k: v for k, v in model.items() if k in chosen}
    source = "the composed settings" if config_path is None else f"{config_path} (with defaults and overrides)"
    settings = build_settings(PretrainSettings, composed, source)
    _check_model(settings.model, source)
    return settings


def compose_experiment(experiment: str, config_path: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Let Hydra put the YAML files and overrides together, as plain values.

    Raises:
        ConfigError: With Hydra's reason.
    """
    with _experiment_on_search_path(experiment, config_path) as (name, searchpath):
        arguments = [*searchpath, f"experiment={name}", *map(_with_unlisted_settings, overrides)]
        try:
            with initialize_config_dir(str(config_folder()), version_base="1.3", job_name="pretrain"):
                config = compose("pretrain", overrides=arguments)
            values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        except Exception as error:  # besides its own errors Hydra lets a TypeError, ValueError, AssertionError ... out
            place = "" if config_path is None else f"{config_path}: "
            if not isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError):
                place += f"Hydra cannot use {' '.join(arguments)}: "
            raise ConfigError(f"{place}{_reason(error)}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def read_experiment(path: Path) -> dict[str, Any]:
    """Read a user's experiment YAML and check its keys and types; errors name the file, which Hydra's do not.

    Raises:
        ConfigError: The file is no readable YAML mapping, or a key is unknown or of the wrong type.
    """
    text, _ = read_yaml("--config-path", path)
    try:
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{path} is not a readable YAML file: {_reason(error)}") from error
    assert isinstance(values, dict)  # as read_yaml found
    own = {str(name): value for name, value in values.items() if name != "defaults"}
    # What Hydra interpolates has its type only when everything is composed.
    literal = {name: value for name, value in own.items() if not _interpolates(value)}
    build_settings(PretrainSettings, literal, str(path))
    _check_model_keys(own.get("model") or {}, str(path))
    return own


def _require_groups(composed: Mapping[str, Any]) -> None:
    """Check that no override, such as ``~model`` or ``model=${seed}``, has removed a whole group of settings."""
    for name in ("model", *_GROUPS):
        value = composed.get(name)
        if not isinstance(value, dict):
            raise ConfigError(
                f"the overrides leave {name}={value!r}, which must be settings; choose one of configs/{name}, as in "
                f"{name}=NAME, or change single ones, as in {name}.setting=value"
            )


def _with_unlisted_settings(override: str) -> str:
    """Prefix an override of a nested setting with ``++``: Hydra refuses keys that the YAML files do not list.

    Those that do not exist, or not any more, are reported by ``build_settings``.
    """
    return f"++{override}" if re.match(r"(?!hydra\.)\w+(\.\w+)+=", override) else override


def _reason(error: Exception) -> str:
    """Hydra's message and its cause on one line, without the list of folders."""
    texts = [str(error), str(error.__cause__)] if error.__cause__ is not None else [str(error)]
    return "; ".join(" ".join(text.split("Config search path")[0].split()) for text in dict.fromkeys(texts))


def _check_model(model: Mapping[str, Any], source: str) -> None:
    _check_model_keys(model, source)
    try:
        HNetNTV2Config(**model)
    except ConfigError as error:
        raise ConfigError(f"{error} ({source})") from error


def _check_model_keys(model: Mapping[str, Any], source: str) -> None:
    known = own_field_names()
    for name in model:
        if name not in known and name not in REMOVED_SETTINGS:  # the config itself says what became of those
            raise ConfigError(f"unknown setting 'model.{name}' in {source}; known here: {', '.join(sorted(known))}")


def _interpolates(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_interpolates, value.values()))
    return isinstance(value, str) and "${" in value


@contextmanager
def _experiment_on_search_path(experiment: str, config_path: Path | None) -> Iterator[tuple[str, list[str]]]:
    """Name of the experiment, and the override with the search path on which Hydra finds a user's file."""
    if config_path is None:
        yield experiment, []
        return
    text = config_path.read_text(encoding="utf-8")
    # Without this line Hydra would put the settings below "experiment".
    if "@package" not in text.partition("\ndefaults:")[0]:
        text = _PACKAGE_LINE + text
    # A copy: Hydra takes experiments from a folder of that name only, and not every file name.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "experiment" / "from_user.yaml"
        copy.parent.mkdir()
        copy.write_text(text, encoding="utf-8")
        yield "from_user", [f"hydra.searchpath=[file://{folder}]"]
