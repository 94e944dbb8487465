"""Locks that the kernel releases when their process ends, however it ends, so that no lock file is left behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError

_held: set[int] = set()


def _let_go_in_child() -> None:
    """A forked child (a loader process, say) outlives a killed parent by seconds, and must not keep its locks so long.

    Closing leaves the parent's lock as it is, unlike unlocking.
    """
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


def take_lock(descriptor: int, path: Path) -> None:
    """Lock an open file or folder for this process until ``release``, or until the process ends.

    Raises:
        ConfigError: Another process holds it, or the file system knows no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"another process is writing {path}; wait until it is done, or name another output"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be locked against a second writer: {error.strerror}; this file system knows no locks, "
            "name an output on another one"
        ) from error
    _held.add(descriptor)


def release(descriptor: int) -> None:
    """Unlock and close."""
    _held.discard(descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for children that were started with the descriptor
    os.close(descriptor)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the only writer's lock of an existing folder while the block runs.

    Raises:
        ConfigError: Another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        take_lock(descriptor, folder)
    except ConfigError:
        os.close(descriptor)
        raise
    try:
        yield
    finally:
        release(descriptor)
