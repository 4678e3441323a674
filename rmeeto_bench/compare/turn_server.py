"""The referee of programs that are measured in turns: strict alternation, block by block, while all of them measure."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rmeeto_bench.measure.turns import DONE, GO, WAIT

PREFIX = "rmeeto-bench-"  # of the folder of a socket
POLL = 0.05  # seconds between two looks at the processes
ABSENT, WORKING, WAITING, FINISHED, ENDED = "absent", "working", "waiting", "finished", "ended"


def _sweep() -> None:
    """Remove the sockets that killed processes of this user left behind: nobody listens there."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/turns"):
        with suppress(OSError), socket.socket(socket.AF_UNIX) as link:
            if path.parent.lstat().st_uid != os.getuid():
                continue
            link.settimeout(1.0)
            try:
                link.connect(str(path))
            except ConnectionRefusedError:
                shutil.rmtree(path.parent, ignore_errors=True)


class Turnstile:
    """Lets one of `names` go at a time, in their order, once all have arrived. Close it.

    A program may measure in several sessions, a process each: one that arrives for its second waits until the others have
    arrived for theirs, or have ended.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        _sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._state = dict.fromkeys(names, ABSENT)
        self._session = dict.fromkeys(names, 0)
        self._last = len(self._names) - 1
        self._changed = threading.Condition()
        self._closed = False
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self._folder / "new"))
        self._server.listen()
        (self._folder / "new").rename(self._folder / "turns")  # where nobody listens, there its process is gone
        threading.Thread(target=self._accept, daemon=True).start()

    def variable(self, name: str) -> str:
        """The value of `measure.turns.VARIABLE` for the process of a side."""
        return f"{self._folder / 'turns'}:{name}"

    def ended(self, name: str) -> None:
        """The process of a side is gone: nobody waits for it."""
        self._set(name, ENDED)

    def serve(self, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
        """Let the processes of the names take turns until all have ended."""
        left = set(processes)
        while left:
            for name in [name for name in left if processes[name].poll() is not None]:
                self.ended(name)
                left.remove(name)
            time.sleep(POLL)

    def close(self) -> None:
        """Let everybody go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _set(self, name: str, state: str) -> None:
        with self._changed:
            if self._state[name] != ENDED:
                self._state[name] = state
            self._changed.notify_all()

    def _accept(self) -> None:
        while not self._closed:
            try:
                link, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with link, link.makefile("rb") as words:
            name = words.readline().decode(errors="replace").strip()
            if name not in self._names:
                return
            with self._changed:
                self._session[name] += 1
                session = self._session[name]
            self._set(name, WORKING)
            try:
                while word := words.read(1):
                    self._answer(link, name, word)
            except OSError:
                pass
            finally:
                with self._changed:
                    if self._session[name] == session:  # its next process may have arrived before this link was seen to close
                        self._set(name, FINISHED)

    def _answer(self, link: socket.socket, name: str, word: bytes) -> None:
        self._set(name, {WAIT: WAITING, DONE: FINISHED}.get(word, WORKING))
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._may_go(name) if word == WAIT else self._all_done(name)))
            if word == WAIT:
                self._state[name] = WORKING
                self._last = self._names.index(name)
        link.sendall(GO)

    def _out_of(self, name: str, session: int) -> bool:
        """Whether a side measures no more in this session."""
        state = self._state[name]
        return state == ENDED or (state == FINISHED and self._session[name] >= session)

    def _may_go(self, name: str) -> bool:
        """Nobody is at work or still to come, and among those who wait it is this one's turn."""
        session = self._session[name]
        others = [other for other in self._names if other != name]
        if not all(self._state[other] == WAITING or self._out_of(other, session) for other in others):
            return False
        count = len(self._names)
        order = (self._names[(self._last + step) % count] for step in range(1, count + 1))
        return next(other for other in order if self._state[other] == WAITING) == name

    def _all_done(self, name: str) -> bool:
        return all(self._out_of(other, self._session[name]) for other in self._names if other != name)
