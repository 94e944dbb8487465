"""Write files and folders: one writer at a time, and complete or absent under their names."""

from .lock import folder_lock
from .output import appearing_file, appearing_folder, growing_file, open_text, remove, restore, sweep
from .places import check_outputs, is_stream, partial_path, resolve

__all__ = [
    "appearing_file",
    "appearing_folder",
    "check_outputs",
    "folder_lock",
    "growing_file",
    "is_stream",
    "open_text",
    "partial_path",
    "remove",
    "resolve",
    "restore",
    "sweep",
]
