"""Ctrl-C in two steps: the first asks the work to end after the piece in hand, the second ends it at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def graceful(message: str, *, terminate: bool = False) -> Iterator[Callable[[], bool]]:
    """Inside the block the yielded function says whether Ctrl-C was pressed once; `message` says what happens then.

    With `terminate`, SIGTERM asks just so: that is how torchrun and batch systems end their jobs.
    """
    asked = False

    def ask(_: int, __: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print(f"\n{message} (Ctrl-C again stops at once)", file=sys.stderr)

    signals = (signal.SIGINT, signal.SIGTERM) if terminate else (signal.SIGINT,)
    before = {number: signal.signal(number, ask) for number in signals}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
