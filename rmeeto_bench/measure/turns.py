"""Two programs measured in turns: before each block a process waits for its turn, so that both meet the same machine.

A referee (`compare.turn_server`) listens on a socket that `RMEETO_BENCH_TURNS` names; without it nobody waits.
"""

from __future__ import annotations

import os
import socket
import time

VARIABLE = "RMEETO_BENCH_TURNS"  # PATH:NAME, the referee's socket and what it calls this process
WAIT, DONE, GO = b"w", b"d", b"g"


class Turns:
    """This process's side. A referee that is gone keeps nobody waiting."""

    def __init__(self, link: socket.socket | None) -> None:
        self._link = link

    @classmethod
    def join(cls) -> Turns:
        """Report to the referee, if there is one."""
        path, _, name = os.environ.get(VARIABLE, "").rpartition(":")
        if not path:
            return cls(None)
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(path)
            link.sendall(name.encode() + b"\n")
        except OSError:
            link.close()
            return cls(None)
        return cls(link)

    def wait(self) -> float:
        """Give up the turn and wait for the next one; seconds waited."""
        return self._ask(WAIT)

    def leave(self) -> None:
        """Give up the turn for good, and wait until the others are done: what comes after must not disturb them."""
        self._ask(DONE)
        if self._link is not None:
            self._link.close()

    def _ask(self, word: bytes) -> float:
        if self._link is None:
            return 0.0
        start = time.perf_counter()
        try:
            self._link.sendall(word)
            answer = self._link.recv(1)
        except OSError:
            answer = b""
        if answer != GO:
            self._link.close()
            self._link = None
        return time.perf_counter() - start
