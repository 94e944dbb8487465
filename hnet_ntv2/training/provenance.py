"""Write down what a run was: its settings, its code, its data and its machine."""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..storage import open_text

PACKAGES = (
    "hnet-ntv2",
    "torch",
    "lightning",
    "transformers",
    "safetensors",
    "numpy",
    "hydra-core",
    "omegaconf",
)


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what a run computes."""
    return {name: _version(name) for name in PACKAGES}


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit of the checkout that this package runs from, and whether files differ from it; None without a checkout."""
    folder = folder or Path(__file__).resolve().parents[2]
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return {"commit": None, "modified": None}  # installed as a package, perhaps inside someone else's checkout
    return {"commit": _git(folder, "rev-parse", "HEAD"), "modified": bool(_git(folder, "status", "--porcelain"))}


def describe_environment(data: dict[str, Any]) -> dict[str, Any]:
    """Everything besides the settings that a run can depend on, as plain values.

    Args:
        data: The data module's description, digests included.
    """
    return {
        "packages": package_versions(),
        "git": git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
        "data": data,
    }


def write_environment(folder: Path, environment: dict[str, Any]) -> Path:
    """Write ``environment.json`` into ``folder``.

    Raises:
        ConfigError: It cannot be written.
    """
    path = folder / "environment.json"
    with open_text(path) as file:
        file.write(json.dumps(environment, indent=2, ensure_ascii=False) + "\n")
    return path


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
