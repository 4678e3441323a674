"""Ctrl-C in two steps: the first asks the work to end after the piece in hand, the second ends it at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def graceful(message: str) -> Iterator[Callable[[], bool]]:
    """Inside the block the yielded function says whether Ctrl-C was pressed once; `message` says what happens then."""
    asked = False

    def ask(_: int, __: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print(f"\n{message} (Ctrl-C again stops at once)", file=sys.stderr)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
