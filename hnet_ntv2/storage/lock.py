"""Locks on open files and folders; the kernel releases them when their process ends, so no lock file is left behind.

On a network file system, folders are locked against other processes of the same machine only.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ConfigError

logger = logging.getLogger(__name__)

_held: set[int] = set()


def _close_in_child() -> None:
    """Close the inherited locks: a forked loader process outlives a killed parent by seconds, and would hold them."""
    for descriptor in _held:
        os.close(descriptor)  # not flock(LOCK_UN), which would release the parent's lock too
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def take_lock(descriptor: int, path: Path) -> None:
    """Lock an open file or folder for this process until ``release``, or until the process ends.

    A file system without locks, as on some clusters, gives a warning.

    Raises:
        ConfigError: Another process holds it; the descriptor is closed then.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigError(f"another process is writing {path}; wait, or name another output") from error
    except OSError as error:
        logger.warning("%s cannot be locked (%s): make sure that no second process writes it", path, error.strerror)
    _held.add(descriptor)


def release(descriptor: int) -> None:
    """Unlock and close."""
    _held.discard(descriptor)
    with suppress(OSError):  # where it was never locked, as ``take_lock`` has warned
        # Explicitly: closing does not unlock while a child process still has the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock an existing folder against other writers while the block runs.

    Raises:
        ConfigError: Another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    take_lock(descriptor, folder)
    try:
        yield
    finally:
        release(descriptor)
