"""Locks that the kernel releases when their process ends, however it ends, so that no lock file is left behind.

On a network file system, folders are locked against other processes of the same machine only.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError

logger = logging.getLogger(__name__)


def take_lock(descriptor: int, path: Path) -> None:
    """Lock an open file or folder for this process until the descriptor is closed.

    Child processes that are forked while the lock is held share it: it is free when the last of them is gone. Where
    the file system knows no locks, as on some clusters, a warning says so.

    Raises:
        ConfigError: Another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"another process is writing {path}; wait until it is done, or name another output"
        ) from error
    except OSError as error:
        logger.warning("%s cannot be locked (%s): see that no second process writes it", path, error.strerror)


def release(descriptor: int) -> None:
    """Unlock and close; forked children that are still there do not hold the lock any longer."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:  # it was never locked, as ``take_lock`` has warned
        logger.debug("nothing to unlock")
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
    except BaseException:
        os.close(descriptor)
        raise
    try:
        yield
    finally:
        release(descriptor)
