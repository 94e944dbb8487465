"""Files and folders that this package writes: one writer at a time, complete or not there at all."""

from .lock import folder_lock
from .output import appearing_file, appearing_folder, growing_file, is_stream, open_text, partial_path, remove, sweep

__all__ = [
    "appearing_file",
    "appearing_folder",
    "folder_lock",
    "growing_file",
    "is_stream",
    "open_text",
    "partial_path",
    "remove",
    "sweep",
]
