"""Which commit a result was made with."""

import subprocess
from pathlib import Path
from typing import Any


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit of the checkout that this package runs from, and whether files differ from it; None without a checkout."""
    folder = folder or Path(__file__).resolve().parents[2]
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return {"commit": None, "modified": None}  # installed, perhaps inside someone else's checkout
    return {"commit": _git(folder, "rev-parse", "HEAD"), "modified": bool(_git(folder, "status", "--porcelain"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
