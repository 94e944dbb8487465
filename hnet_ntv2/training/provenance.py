"""Write down what a run was: its settings, its code, its data and its machine."""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

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
    """Write ``environment.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "environment.json"
    path.write_text(json.dumps(environment, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def check_identity(saved: dict[str, Any], current: dict[str, Any], path: Path, allow_changed_max_steps: bool) -> None:
    """Refuse to resume from a checkpoint of a run that was set up differently.

    Args:
        saved: Identity stored in the checkpoint, nested dicts of plain values.
        current: Identity of the run that wants to go on from it.
        path: The checkpoint, for the message.
        allow_changed_max_steps: Let ``max_steps`` differ.

    Raises:
        CheckpointError: Every difference, with both values.
    """
    before, now = _flat(saved), _flat(current)
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    if allow_changed_max_steps:
        names = [name for name in names if name != "max_steps"]
    if not names:
        return
    lines = "; ".join(f"{name}: {before.get(name)!r} in the checkpoint, {now.get(name)!r} now" for name in names)
    hint = ""
    if "max_steps" in names:
        hint = ", or allow another length with `-- allow_changed_max_steps=true` (its learning rates then differ)"
    raise CheckpointError(
        f"cannot resume from {path}: {lines}. Use the settings of that run{hint}; to start a new run from its weights "
        "use --init"
    )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


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
