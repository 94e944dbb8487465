"""Read a YAML file of settings safely: bounded in size, also with its aliases written out, and surely a mapping."""

import math
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

_MOST_BYTES = 100_000
_MOST_VALUES = 10_000


def read_yaml(option: str, path: Path) -> tuple[str, dict[str, Any]]:
    """Text and content of a YAML file of settings.

    Args:
        option: That named the file, for errors.
        path: A file of at most 100 kB, which with its aliases (``*name``) written out holds at most 10,000 values.

    Raises:
        ConfigError: It is not such a file, with the reason.
    """
    if not path.is_file():
        why = "it is a folder" if path.is_dir() else "there is no such file"
        raise ConfigError(f"{option} {path} cannot be read: {why}; it takes a YAML file of settings")
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ConfigError(f"{option} {path} has {size:,} bytes, more than any settings need; is it the right file?")
        text = path.read_text(encoding="utf-8")
        _check_size(yaml.compose(text, yaml.SafeLoader), path)
        values = yaml.safe_load(text)
    # ValueError: no UTF-8, or a date that does not exist; RecursionError: brackets within brackets, by the thousand.
    except (yaml.YAMLError, OSError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not a readable YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold settings as `name: value`, it holds a {type(values).__name__}")
    return text, {str(name): value for name, value in values.items()}


def _check_size(root: yaml.Node | None, path: Path) -> None:
    counts: dict[int, float] = {}

    def count(node: yaml.Node) -> float:
        """Count the values in a node, its aliases written out; an alias is the very node that it stands for."""
        if id(node) not in counts:
            counts[id(node)] = math.inf  # until it is counted: a node that holds itself is endless
            children = [node.value] if isinstance(node.value, str) else node.value
            flat = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
            counts[id(node)] = 1 + sum(count(part) for part in flat if isinstance(part, yaml.Node))
        return counts[id(node)]

    if root is not None and count(root) > _MOST_VALUES:
        raise ConfigError(
            f"{path} holds more than {_MOST_VALUES:,} values once its aliases (*name) are written out; write the few "
            "that are needed"
        )
