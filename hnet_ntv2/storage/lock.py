"""Locks that the kernel releases when their process ends, however it ends, so that no lock file is left behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError


def take_lock(descriptor: int, path: Path) -> None:
    """Lock an open file or folder for this process until the descriptor is closed.

    Child processes that are forked while the lock is held share it: it is free when the last of them is gone.

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


def release(descriptor: int) -> None:
    """Unlock and close; forked children that are still there do not hold the lock any longer."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
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
        yield
    finally:
        release(descriptor)
