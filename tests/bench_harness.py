"""Runs on simulated devices whose workers are forked instead of started anew: milliseconds, not seconds."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run.controls import Controls, News
from rmeeto_bench.bench.session import accuracy_pass, jobs, workload
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.bench.session.worker import serve
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.measure.protocol import PRESETS, QUICK

LOADED = (accuracy_pass, jobs, workload)  # before any fork: importing them in each of them would take seconds
set_num_threads = torch.set_num_threads  # as it is before any test replaces it


class Forked:
    """A forked worker, with as much of `subprocess.Popen` as is used. `status` tells its pid, then its exit code."""

    def __init__(self, words: int, events: int, errors: int, status: int) -> None:
        self.stdin: IO[str] | None = os.fdopen(words, "w")
        self.stdout: IO[str] | None = os.fdopen(events)
        self.stderr: IO[str] | None = os.fdopen(errors)
        self._status = os.fdopen(status)
        self.pid = int(self._status.readline())
        self._code: int | None = None

    def wait(self) -> int:
        if self._code is None:
            self._code = int(self._status.readline())
            self._status.close()
        return self._code

    def kill(self) -> None:
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, 9)


class Nursery:
    """A process with one thread that forks the workers.

    It is itself forked when it is made, from the test's thread: a run at work has other threads, and what they hold at a fork
    (SQLite's lock of its memory) is held in the child for ever.
    """

    def __init__(self, before: Callable[[Job], None]) -> None:
        self._requests, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            self._requests.close()
            if os.fork() == 0:
                self._serve(requests, before)
            os._exit(0)  # the nursery is nobody's child and leaves no zombie
        os.waitpid(pid, 0)
        requests.close()

    def __call__(self, job: Job) -> Forked:
        (words_in, words), (events, events_out), (errors, errors_out), (status, status_out) = (os.pipe() for _ in range(4))
        theirs = [words_in, events_out, errors_out, status_out]
        socket.send_fds(self._requests, [job.as_line().encode()], theirs)
        for descriptor in theirs:
            os.close(descriptor)
        return Forked(words, events, errors, status)

    def _serve(self, requests: socket.socket, before: Callable[[Job], None]) -> None:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            line, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 4)
            if not line:
                os._exit(0)
            if os.fork() == 0:
                requests.close()
                self._keep(Job.from_line(line.decode()), before, *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)

    @staticmethod
    def _keep(job: Job, before: Callable[[Job], None], words: int, events: int, errors: int, status: int) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pid = os.fork()
        if pid == 0:
            os.close(status)
            work(job, before, words, events, errors)
        for descriptor in (words, events, errors):
            os.close(descriptor)
        with suppress(BrokenPipeError):
            os.write(status, f"{pid}\n".encode())
            os.write(status, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
        os._exit(0)


def work(job: Job, before: Callable[[Job], None], words: int, events: int, errors: int) -> None:
    try:
        os.setsid()
        set_num_threads(1)  # the threads of OpenMP do not survive a fork, and a child waits for them for ever
        before(job)
        code = serve(os.fdopen(words), os.fdopen(events, "w"))
    except BaseException as error:
        os.write(errors, f"{type(error).__name__}: {error}\n".encode())
        code = 1
    os._exit(code)


@dataclass
class Heard:
    """Remembers the news of a run."""

    notes: list[str] = field(default_factory=list)
    stages: list[tuple[str, str]] = field(default_factory=list)

    progress: list[Any] = field(default_factory=list)

    def __call__(self, news: News) -> None:
        if news.progress is not None:
            self.progress.append(news.progress)
        elif news.device:
            self.stages.append((news.device, news.text))
        else:
            self.note(news.text)

    def note(self, text: str) -> None:
        self.notes.append(text)


def controls(before: Callable[[Job], None] = lambda _: None, **changes: Any) -> Controls:
    return Controls(**{"tell": Heard(), "launch": Nursery(before), **changes})


def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let --quick be three rounds of ten milliseconds: what is tested is not how well it measures."""
    brief = {"block_seconds": 0.01, "min_rounds": 3, "max_rounds": 3, "warmup_seconds": 0.0, "warmup_limit": 0.5}
    monkeypatch.setitem(PRESETS, "quick", replace(QUICK, **brief, max_rejected=50))


def sim_plan(devices: str = "rtx4090", **changes: Any) -> BenchPlan:
    return BenchPlan(**{"models": ("vim_tiny",), "rs": (0, 20), "gpus": f"sim:{devices}", **changes})


def breaking_add_block(number: int, act: Callable[[], None], *, device: str = "", after: bool = False) -> Callable[[Job], None]:
    """Make the `number`-th block of a worker on `device` (default: any) do `act` before (or after) it is stored."""

    def before(job: Job) -> None:
        if device not in job.device or job.kind != "timing":
            return
        count, store_block = 0, Store.add_block

        def add_block(self: Store, block: Any) -> None:
            nonlocal count
            count += 1
            if count == number and not after:
                act()
            store_block(self, block)
            if count == number and after:
                act()

        Store.add_block = add_block  # type: ignore[method-assign]  # in the child only

    return before


def all_blocks(folder: Path, device: str = "sim:rtx4090") -> list[tuple[int, int, str, float]]:
    with Store.open(folder) as store:
        return [(b.session, b.round, b.arm, b.seconds) for b in store.blocks(device)]


def fork_and(work: Callable[[], object]) -> int:
    """Run `work` in a child in a process group of its own; returns its pid."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    return pid
