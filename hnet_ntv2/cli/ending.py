"""End a command that is stopped by a signal or a closed pipe: outputs removed, no traceback, a shell's exit status."""

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

# Shells report a process that a signal ended as 128 plus the signal's number.
_SIGNALLED = 128
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_REPEATED_WITHIN = 1.0  # seconds


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C raise SystemExit in the block, so that ``finally`` clauses remove unfinished outputs."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hands signals to the main thread only
        return
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    last = -_REPEATED_WITHIN

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        # `timeout` signals a process and then its group: the second signal must not interrupt the clean-up.
        if now - last >= _REPEATED_WITHIN:
            last = now
            raise SystemExit(_SIGNALLED + number)

    try:
        for number, handler in before.items():
            # A signal that is ignored, as in a background job of a script, stays ignored.
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def quiet_on_broken_pipe(verb: Callable[..., None]) -> Callable[..., None]:
    """Wrap a verb so that it ends without a message when standard output is closed, as by ``| head``."""

    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            verb(*arguments, **options)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python flushes both streams when it ends, and would print an error for the closed pipe.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nowhere, stream.fileno())
            raise SystemExit(_SIGNALLED + signal.SIGPIPE) from None

    return run
