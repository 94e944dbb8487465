"""Training data: windows, masks, batches. The names below are imported lazily, because Lightning is slow to import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .collate import Batch, MaskingCollator
    from .datamodule import HG38DataModule
    from .demo import DemoPaths, demo_paths
    from .masking import MaskConfig, MaskKeys, mask_windows
    from .windows import WindowIndex

_HOMES = {
    "Batch": "collate",
    "DemoPaths": "demo",
    "HG38DataModule": "datamodule",
    "MaskConfig": "masking",
    "MaskKeys": "masking",
    "MaskingCollator": "collate",
    "WindowIndex": "windows",
    "demo_paths": "demo",
    "mask_windows": "masking",
}

__all__ = [
    "Batch",
    "DemoPaths",
    "HG38DataModule",
    "MaskConfig",
    "MaskKeys",
    "MaskingCollator",
    "WindowIndex",
    "demo_paths",
    "mask_windows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
