"""The process of one session: `python -m rmeeto_bench.bench.session.worker`, started by `bench.run.processes`, never by hand.

Its standard input is its lifeline: the job comes first, then words (`stop`: finish the block and end; `go`: next block). When
it closes, because the parent is gone, the process ends at once: what it had stored stays, nothing goes on unwatched.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any, TextIO

from rmeeto_bench.errors import RmeetoError

LOST, REFUSED = 7, 3  # exit codes: the parent is gone; the work was refused and the reason told


class Lifeline:
    """The words of the parent, listened to in a thread."""

    def __init__(self, words: TextIO) -> None:
        self._words = words
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._words:
            word = line.strip()
            if word == "stop":
                self._stop.set()
            self._orders.put(word)
        os._exit(LOST)

    def should_stop(self) -> bool:
        """Whether the parent asked for the end."""
        return self._stop.is_set()

    def next_order(self) -> str:
        """Wait for the next word."""
        return self._orders.get()


def serve(words: TextIO, events: TextIO) -> int:
    """Do the job that comes on `words`, tell of it on `events`; returns the exit code."""

    def emit(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    from rmeeto_bench.bench.session.jobs import Job, perform

    line = words.readline()
    if not line:
        return LOST
    job = Job.from_line(line)
    lifeline = Lifeline(words)
    try:
        perform(job, emit, lifeline.should_stop, lifeline.next_order)
    except RmeetoError as error:
        emit("error", kind=type(error).__name__, message=str(error))
        return REFUSED
    except Exception as error:
        if not type(error).__module__.startswith("triton."):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        text = f"a kernel that passed its self-test fails at this size ({reason}); --backend chunked runs without Triton"
        emit("error", kind="SlowPathError", message=text)
        return REFUSED
    emit("done")
    return 0


def _own_channels() -> tuple[TextIO, TextIO]:
    """The pipes to the parent, moved to where no child finds them: children read nothing, and their output goes to standard
    error, as does whatever libraries print. A process that is forked from here closes both."""
    pipes = os.dup(0), os.dup(1)  # Python's copies are not passed on to other programs
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)

    def close() -> None:
        for pipe in pipes:
            os.close(pipe)

    os.register_at_fork(after_in_child=close)
    return os.fdopen(pipes[0], encoding="utf-8"), os.fdopen(pipes[1], "w", encoding="utf-8")


def main() -> int:
    """Do one job for the parent. Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    words, events = _own_channels()
    code = serve(words, events)
    events.flush()
    sys.stderr.flush()
    os._exit(code)  # a GPU's libraries may hang or crash while the interpreter is taken down; everything is stored


if __name__ == "__main__":
    main()
