"""Ctrl-C in two steps: the first asks the work to end after the piece in hand, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rmeeto_bench.cli import output


@contextmanager
def graceful(message: str) -> Iterator[Callable[[], bool]]:
    """Inside the block the yielded function says whether Ctrl-C was pressed once; `message` says what happens then.

    SIGTERM, by which schedulers end a job, asks like the first Ctrl-C.
    """
    asked = threading.Event()

    def ask(_: int, __: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        output.say(f"\n{message} (Ctrl-C again stops at once)", error=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
