"""What an interrupted output depends on, compared with what it would depend on now."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from ..errors import ConfigError


def require_same_settings(stored: Mapping[str, Any], now: Mapping[str, Any], output: str | PathLike[str]) -> None:
    """Refuse to go on with an output that was made differently.

    Args:
        stored: What stands beside the output.
        now: What it would be made with.
        output: For the message.

    Raises:
        ConfigError: With every setting that differs.
    """
    names = dict.fromkeys([*now, *stored])
    other = [
        f"{name} {stored.get(name)!r}, now {now.get(name)!r}" for name in names if stored.get(name) != now.get(name)
    ]
    if other:
        raise ConfigError(f"{output} was made differently ({'; '.join(other)}); name another --output to start anew")
