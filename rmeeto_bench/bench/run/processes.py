"""Fresh processes for sessions: starting one on its GPU, hearing its events, and saying in one line how it died."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from rmeeto_bench import children, errors
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.bench.store.journal import disk_of, is_network
from rmeeto_bench.cpus import STEP_THREADS, affinity, cores, short_waits
from rmeeto_bench.kernels.native.trust import distrust
from rmeeto_bench.measure.devices.nvml import gpu_uuid
from rmeeto_bench.measure.turns import VARIABLE
from rmeeto_bench.watchdog import SILENT, SILENT_UNSEEN, Watchdog

POLL = 0.2  # seconds between two looks at whether to stop
READING = ("accuracy", "fed")  # kinds of job that read images in processes of their own
TAIL = 20  # last lines of a worker's standard error that are kept


class Process(Protocol):
    """What is needed of a started worker; `subprocess.Popen` has it."""

    pid: int

    @property
    def stdin(self) -> IO[str] | None: ...
    @property
    def stdout(self) -> IO[str] | None: ...
    @property
    def stderr(self) -> IO[str] | None: ...
    def wait(self) -> int: ...
    def kill(self) -> None: ...


def _own_folder(what: str) -> str | None:
    """A folder for temporary code that no other user can write; None if there is no such."""
    folder = Path(tempfile.gettempdir()) / f"rmeeto-bench-{what}-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if distrust(folder) is None:
            return str(folder)
    return None


def _keep_triton_local(values: dict[str, str]) -> None:
    """Triton's cache on a disk of this machine where the home is a network one: it loads code from there."""
    if "TRITON_CACHE_DIR" in values or not is_network(disk_of(Path.home())):
        return
    if (folder := _own_folder("triton")) is not None:
        values["TRITON_CACHE_DIR"] = folder


def _keep_compiled(values: dict[str, str], device: str) -> None:
    """What torch.compile makes, in a local folder of this user alone: the processes of a run share it, and load code from it.

    On a CPU it compiles in the process itself, as helpers would stay beside what is timed, and for as many threads in every
    process. A folder that torch's import has named is not the user's choice: its name is known to all users of the machine.
    """
    if device == "cpu":
        values.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        values[STEP_THREADS] = values.get("OMP_NUM_THREADS", str(cores())).partition(",")[0]
    chosen = Path(values.get("TORCHINDUCTOR_CACHE_DIR", "torchinductor_")).name
    if chosen.startswith("torchinductor_") and (folder := _own_folder("inductor")) is not None:
        values["TORCHINDUCTOR_CACHE_DIR"] = folder


def worker_environment(device: str, kind: str, threads: int | None = None) -> dict[str, str]:
    """The variables of a worker: its GPU is the only one it sees, by UUID; its host code has one thread to itself.

    MIG instances are left as the user chose them: a process can use one only. Accuracy passes read images with more. On a CPU
    the threads of what is timed are bound to cores: where they happen to run, two processes of one program differ by several
    per cent.
    """
    values = children.variables()
    _keep_compiled(values, device)
    if threads is not None:
        values["OMP_NUM_THREADS"] = str(threads)
    uuid = device.removeprefix("cuda:")
    if uuid != device:
        if not values.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-"):
            values["CUDA_VISIBLE_DEVICES"] = gpu_uuid(uuid)
        _keep_triton_local(values)
        if kind not in READING:
            values.setdefault("OMP_NUM_THREADS", "1")
    elif device == "cpu" and cores() < affinity():  # torch knows the affinity, but not the quota of a container
        values.setdefault("OMP_NUM_THREADS", str(cores()))
    if device == "cpu":
        short_waits(values)
        if kind not in READING:
            values.setdefault("OMP_PROC_BIND", "true")
            values.setdefault("OMP_PLACES", "cores")
    return values


def launch(job: Job) -> Process:
    """Start the worker of a job, out of reach of the terminal's Ctrl-C."""
    return subprocess.Popen(
        children.python("rmeeto_bench.bench.session.worker"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=worker_environment(job.device, job.kind, job.threads) | ({VARIABLE: job.turns} if job.turns else {}),
        start_new_session=True,
    )


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: str  # done, stopped, refused or lost
    reason: str = ""  # in words, where it was lost
    error: errors.RmeetoError | None = None  # that it told of, where it was refused


def death(code: int, tail: list[str]) -> str:
    """How a process ended that told of no error, in words."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = {"SIGKILL": ", by hand or for lack of memory", "SIGSEGV": ": a crash in native code"}.get(name, "")
        return f"its process was ended by {name}{hint}"
    last = next((line.strip() for line in reversed(tail) if line.strip()), "it said nothing")
    return f"its process ended with code {code}: {last}"


@dataclass
class Worker:
    """A running worker. `next_event` must be called until it returns None. One that gets nowhere is ended."""

    job: Job  # what it does
    process: Process  # that does it
    silent: float = SILENT  # most seconds without an event and without processor time
    silent_unseen: float = SILENT_UNSEEN  # most seconds without an event, where the system does not tell processor times
    # What it said; None: it said its last.
    _events: queue.SimpleQueue[dict[str, Any] | None] = field(default_factory=queue.SimpleQueue)
    _tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))  # last lines of its standard error
    _error: errors.RmeetoError | None = None  # that it told of
    _done: bool = False  # it said that its job is done
    _stopped: bool = False  # it said that it stopped, as it was asked to
    _stage: str = "its start"  # what it said last that it does
    _stuck: str = ""  # why it was ended; empty: it was not

    def __post_init__(self) -> None:
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._read_errors)]
        for thread in self._threads:
            thread.start()
        self.tell(self.job.as_line())

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self._events.put(json.loads(line))
            except ValueError:  # cut off by a kill
                continue
        self._events.put(None)

    def _read_errors(self) -> None:
        for line in self.process.stderr or ():
            self._tail.append(line)

    def tell(self, word: str) -> None:
        """Write a line to the worker; one that is gone hears nothing."""
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(word if word.endswith("\n") else word + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass

    def stop(self) -> None:
        """Ask it to end after the block in hand."""
        if not self._stopped:
            self._stopped = True
            self.tell("stop")

    def next_event(self, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        """The next event that is not about the end, or None when the worker is gone."""
        watchdog = Watchdog(self.process.pid, self.silent, self.silent_unseen)
        while True:
            try:
                event = self._events.get(timeout=POLL)
            except queue.Empty:
                if should_stop():
                    self.stop()
                if not self._stuck and (seconds := watchdog.stuck_for()) is not None:
                    self._end_stuck(seconds)
                continue
            if event is None:
                return None
            watchdog.heard()
            self._stage = event["stage"] if event["event"] == "stage" else event["event"]
            if event["event"] == "error":
                self._error = getattr(errors, event["kind"], errors.RmeetoError)(event["message"])
            elif event["event"] == "done":
                self._done = True
            else:
                if should_stop():
                    self.stop()
                return event

    def _end_stuck(self, seconds: float) -> None:
        """End a worker that gets nowhere, and say in one line where it was."""
        last = next((f", its last words: {line.strip()}" for line in reversed(self._tail) if line.strip()), "")
        self._stuck = (
            f"its process ({self.process.pid}) did nothing for {seconds / 60:.0f} min after {self._stage}{last}. "
            "It was ended; look at the driver and the disk that --data is on, then go on with resume"
        )
        self.process.kill()

    def outcome(self) -> Outcome:
        """How it ended; call it after the last event."""
        code = self.process.wait()
        for thread in self._threads:
            thread.join(timeout=5)
        if self._stuck:
            return Outcome("lost", self._stuck)
        if self._error is not None:
            return Outcome("refused", str(self._error), self._error)
        if self._done:
            return Outcome("stopped" if self._stopped else "done")
        return Outcome("lost", death(code, list(self._tail)))

    def close(self) -> None:
        """End it at once if it still runs, and free its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                if pipe is not None:
                    pipe.close()
            except (BrokenPipeError, ValueError):
                pass


def events(worker: Worker, should_stop: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """All events of a worker until it is gone."""
    while (event := worker.next_event(should_stop)) is not None:
        yield event
