"""How a command ends when it is stopped from outside: cleaned up, quiet, and with the status that shells expect."""

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Shells tell a process that a signal ended by 128 and the signal's number.
_SIGNALLED = 128
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_REPEATED_WITHIN = 1.0  # seconds


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the block by SystemExit, so that unfinished outputs are removed.

    A signal that is ignored, as in a background job of a script, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hands signals to the main thread only
        return
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    stop = _Stop()
    try:
        for number, handler in before.items():
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stop:
    """The handler."""

    def __init__(self) -> None:
        self._last = -_REPEATED_WITHIN

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last < _REPEATED_WITHIN:
            return  # `timeout` signals a process and then its group: the second must not stop the cleaning up
        self._last = now
        raise SystemExit(_SIGNALLED + number)


def quiet_on_broken_pipe(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, ending without a word when nobody reads standard output any longer, as in ``| head``."""

    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            verb(*arguments, **options)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python flushes once more when it ends, and would tell that this fails.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nowhere, stream.fileno())
            raise SystemExit(_SIGNALLED + signal.SIGPIPE) from None

    return run
