"""The settings of a resumable job: written beside its output, and compared before the job goes on."""

import dataclasses
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..genome import Genome
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..storage import resolve


def settings_path(output: str | PathLike[str]) -> Path:
    """``<output>.settings.json`` beside the file that ``output`` leads to."""
    target = resolve(output)
    return target.with_name(f"{target.name}.settings.json")


def describe_job(
    model: HNetNTV2ForMaskedLM, model_id: str, genome: Genome, settings: Any, **others: Any
) -> dict[str, Any]:
    """What the bytes of an output depend on: model, genome, device, ``others``, and the fields of ``settings``."""
    # The kind of device: CPU and GPU round differently, so a job that changed device would not give the same bytes.
    inputs = {"model": model_id, "genome": genome.fingerprint, "device": model.device.type}
    return inputs | others | dataclasses.asdict(settings)


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object in a settings file.

    Raises:
        ConfigError: It cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: deeply nested brackets
        needed = f"--resume needs the settings of the job, but {path} cannot be read ({error})"
        raise ConfigError(f"{needed}; remove the output to start anew") from error
    return content


def require_same_settings(stored: Mapping[str, Any], now: Mapping[str, Any], output: str | PathLike[str]) -> None:
    """Refuse to continue an output that was made with other settings.

    Args:
        stored: The settings beside the output.
        now: The settings of this call.
        output: For the message.

    Raises:
        ConfigError: With every setting that differs.
    """
    # Both sides: a setting that only one version of the package knows is a difference too.
    names = dict.fromkeys([*now, *stored])
    other = [
        f"{name} {stored.get(name)!r}, now {now.get(name)!r}" for name in names if stored.get(name) != now.get(name)
    ]
    if other:
        raise ConfigError(f"{output} was made differently ({'; '.join(other)}); name another --output to start anew")
