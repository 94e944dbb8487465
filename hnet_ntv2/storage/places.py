"""Read the name of an output: a file, to be replaced when complete, or a stream, to be written to directly."""

import os
import re
import stat
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from ..errors import ConfigError

STANDARD_OUTPUT = "-"
PARTIAL = ".partial"
_OPEN_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_NAMED_DESCRIPTORS = {STANDARD_OUTPUT: 1, "/dev/stdout": 1, "/dev/stderr": 2}

AnyPath = str | os.PathLike[str]


def descriptor_of(path: AnyPath) -> int | None:
    """Number of the open file that an output names: 1 for ``-`` and /dev/stdout, N for /dev/fd/N; else None."""
    name = os.fspath(path)
    match = _OPEN_DESCRIPTOR.fullmatch(name)
    return int(match[1]) if match else _NAMED_DESCRIPTORS.get(name)


def is_stream(path: AnyPath) -> bool:
    """Whether an output is standard output, a pipe or a device, which cannot be replaced."""
    if descriptor_of(path) is not None:
        return True
    status = _status(path)
    return status is not None and not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode)


def resolve(path: AnyPath) -> Path:
    """The file or folder that a name leads to, whether or not it exists; links are followed.

    Raises:
        ConfigError: Its links lead nowhere, or ``~name`` is no user.
    """
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{os.fspath(path)} leads to no place: {error}") from error


def partial_path(path: AnyPath) -> Path:
    """The file beside an output that is written until it is complete."""
    target = resolve(path)
    return target.with_name(f"{target.name}{PARTIAL}")


def check_outputs(outputs: Mapping[str, AnyPath | None], inputs: Mapping[str, AnyPath | None]) -> None:
    """Check, before work starts, that outputs can be written, differ from each other, and replace no input.

    Args:
        outputs: Paths by the option that names them; None for an option that was not given.
        inputs: Files or folders that are read, likewise.

    Raises:
        ConfigError: With options and paths.
    """
    written = [(option, path) for option, path in outputs.items() if path is not None]
    for option, path in written:
        if not is_stream(path):
            _check_folder_of(path, option)
    for (option, path), (other_option, other) in combinations(written, 2):
        # Any number of outputs may be thrown away.
        if _is_same(path, other) and not _is_same(path, os.devnull):
            both = f"{path} ({option}) and {other} ({other_option})"
            raise ConfigError(f"two outputs have the same name: {both}; name two files")
    for option, path in written:
        for input_option, source in inputs.items():
            if source is not None and _would_replace(path, source):
                read = f"{input_option} {source}"
                raise ConfigError(f"{option} {path} would replace what {read} reads; name another output")


def _check_folder_of(path: AnyPath, option: str) -> None:
    # The nearest folder that exists: those below it are made when the output is.
    folder = next(parent for parent in resolve(path).parents if os.path.exists(parent))
    if not folder.is_dir():
        raise ConfigError(f"{option} {path} cannot be written: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {path} cannot be written: the folder {folder} is write-protected")


def _is_same(path: AnyPath, other: AnyPath) -> bool:
    descriptors = descriptor_of(path), descriptor_of(other)
    if descriptors != (None, None):
        return descriptors[0] == descriptors[1]
    # By inode, for hard links and file systems that ignore case; by name for what does not exist yet.
    first, second = _status(path), _status(other)
    if first is not None and second is not None:
        return os.path.samestat(first, second)
    return resolve(path) == resolve(other)


def _would_replace(output: AnyPath, source: AnyPath) -> bool:
    if is_stream(output):
        return False
    if _is_same(output, source):
        return True
    # An output folder that is there is replaced as a whole, with an input in it.
    return _status(output) is not None and resolve(source) in resolve(output).parents


def _status(path: AnyPath) -> os.stat_result | None:
    """Status of what a name leads to; None on any error, which opening it will raise again."""
    try:
        return os.stat(os.path.expanduser(path))
    except OSError:
        return None
