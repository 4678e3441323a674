"""Ctrl-C in two steps: the first lets the current piece of work finish, the second ends it at once.

SIGTERM, by which schedulers and `docker stop` end a job, does what Ctrl-C does, in every command and at every moment.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rmeeto_bench.cli import output

PATIENCE = 8.0  # seconds for the current piece of work; schedulers often kill after ten


@contextmanager
def terminable() -> Iterator[None]:
    """Inside the block SIGTERM raises `KeyboardInterrupt`, as Ctrl-C does. Threads get no signals: there nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def graceful(message: str) -> Iterator[Callable[[], bool]]:
    """Inside the block the yielded function says whether Ctrl-C was pressed once; `message` says what happens then.

    Work that has not ended `PATIENCE` seconds later is interrupted as by the second Ctrl-C.
    """
    asked, main = threading.Event(), threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(PATIENCE, signal.pthread_kill, (main, signal.SIGINT))
    timer.daemon = True

    def ask(_: int, __: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        timer.start()
        output.say(f"\n{message} (Ctrl-C again stops at once)", error=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
