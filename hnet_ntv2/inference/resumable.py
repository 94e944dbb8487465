"""Outputs that grow together, and the journal by which an interrupted job goes on to the same bytes.

The outputs grow as ``<output>.partial``. The journal, ``<first output>.settings.json``, holds the settings that the
bytes depend on, how far each output is, and the job's own state.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..storage import appearing_file, growing_file, is_stream, partial_path
from ..storage.output import as_config_errors
from .settings_file import read_settings, require_same_settings, settings_path

# Work that an interruption can lose.
_SECONDS_BETWEEN_SAVES = 5.0


@contextmanager
def resumable_outputs(
    paths: Mapping[str, Path], identity: dict[str, Any], resume: bool
) -> Iterator["ResumableOutputs"]:
    """Open the outputs of a job; they take their names when the block ends without error.

    Streams are written to directly, without a journal.

    Args:
        paths: The outputs, by a name for each; the journal stands beside the first.
        identity: The settings that the bytes depend on, for JSON.
        resume: Continue what an interrupted job left, if it left something.

    Raises:
        ConfigError: An output cannot be written; or an interrupted one has other settings, or was edited.
    """
    saved = _read_progress(paths, identity) if resume else None
    is_complete = saved is not None and saved["is_complete"]
    with ExitStack() as stack:
        # Of a complete job only what did not get its name: an output that has it must not be replaced.
        files = {
            name: _Output(stack.enter_context(growing_file(path, resume=saved is not None)), path)
            for name, path in paths.items()
            if not is_complete or partial_path(path).exists()
        }
        for name, file in files.items():
            if saved is not None:
                file.continue_from(saved["outputs"][name])
        has_journal = not any(map(is_stream, paths.values()))
        yield ResumableOutputs(_journal(paths) if has_journal else None, identity, files, saved, is_complete)


@dataclass
class ResumableOutputs:
    """The open outputs of a job.

    Attributes:
        saved: The state that an interrupted job passed to its last ``save``; None for a job that begins.
        is_complete: Whether that job had written all it had to.
    """

    _journal: Path | None
    _identity: dict[str, Any]
    _files: "dict[str, _Output]"
    saved: dict[str, Any] | None
    is_complete: bool
    _time_saved: float = field(default_factory=time.monotonic)

    def write(self, name: str, data: bytes) -> None:
        """Append to an output."""
        self._files[name].write(data)

    def is_save_due(self) -> bool:
        """Whether the last ``save`` is some seconds ago; each waits for the disk."""
        return time.monotonic() - self._time_saved >= _SECONDS_BETWEEN_SAVES

    def save(self, state: Mapping[str, Any], is_complete: bool = False) -> None:
        """Store the job's state and how far the outputs are.

        Args:
            state: What the job needs to go on from here, for JSON.
            is_complete: Nothing more will be written.
        """
        if self._journal is None:
            return
        # The outputs first: a journal must never promise bytes that a power cut can take away.
        outputs = {name: file.sync() for name, file in self._files.items()}
        progress = {"is_complete": is_complete, "outputs": outputs, **state}
        with appearing_file(self._journal) as partial:
            partial.write_text(json.dumps({"settings": self._identity, "progress": progress}) + "\n", encoding="utf-8")
        self._time_saved = time.monotonic()


class _Output:
    """A growing file, with the number of its bytes and their digest."""

    def __init__(self, file: Any, path: Path) -> None:
        self._file = file  # Any: plain files, standard output and compressed streams share no type
        self._path = path
        self._digest = hashlib.blake2b(digest_size=16)
        self._num_bytes = 0

    def write(self, data: bytes) -> None:
        with as_config_errors(self._path):
            self._file.write(data)
        self._digest.update(data)
        self._num_bytes += len(data)

    def sync(self) -> dict[str, Any]:
        """Wait until the disk has all that was written; its size and digest."""
        with as_config_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return {"bytes": self._num_bytes, "digest": self._digest.hexdigest()}

    def continue_from(self, saved: dict[str, Any]) -> None:
        """Check that the file begins with what the journal describes, and cut the rest.

        Raises:
            ConfigError: It does not.
        """
        # Read, not only measured: a file that was edited would be continued into nonsense.
        self._num_bytes = saved["bytes"]
        left = self._num_bytes
        while left and (data := self._file.read(min(left, 1 << 20))):
            self._digest.update(data)
            left -= len(data)
        if left or self._digest.hexdigest() != saved["digest"]:
            partial = partial_path(self._path)
            raise ConfigError(f"{partial} is not what the interrupted command wrote; start anew without --resume")
        self._file.seek(self._num_bytes)
        self._file.truncate()


def _journal(paths: Mapping[str, Path]) -> Path:
    return settings_path(next(iter(paths.values())))


def _read_progress(paths: Mapping[str, Path], identity: dict[str, Any]) -> dict[str, Any] | None:
    """What the last call saved; None if there is nothing to go on from.

    Raises:
        ConfigError: An output is a stream, or the journal is damaged or holds other settings.
    """
    for path in filter(is_stream, paths.values()):
        raise ConfigError(f"{path} is a pipe or device: what went there cannot be resumed; name a file")
    journal = _journal(paths)
    if not journal.exists():
        return None
    stored = read_settings(journal)
    settings, progress = stored.get("settings"), stored.get("progress")
    if not isinstance(settings, dict) or not isinstance(progress, dict):
        raise ConfigError(f"{journal} cannot be read (it is not of such a job); start anew without --resume")
    require_same_settings(settings, identity, next(iter(paths.values())))
    is_missing = [not path.expanduser().exists() and not partial_path(path).exists() for path in paths.values()]
    # Complete outputs that somebody has moved away are made anew.
    return None if progress["is_complete"] and any(is_missing) else progress
