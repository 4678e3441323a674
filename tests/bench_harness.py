"""Runs on simulated devices whose workers are forked from the test instead of started anew: milliseconds, not seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from rmeeto_bench.bench.desk import Job
from rmeeto_bench.bench.plan import BenchPlan
from rmeeto_bench.bench.runner import Controls
from rmeeto_bench.bench.store import Store
from rmeeto_bench.bench.worker import serve

set_num_threads = torch.set_num_threads  # as it is before any test replaces it


class Forked:
    """A forked worker, with as much of `subprocess.Popen` as is used."""

    def __init__(self, job: Job, before: Callable[[Job], None]) -> None:
        words, self._words = os.pipe()
        self._events, events = os.pipe()
        nothing, errors = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._words)
                os.close(self._events)
                os.setsid()
                set_num_threads(1)  # the threads of OpenMP do not survive a fork, and a child waits for them for ever
                before(job)
                code = serve(os.fdopen(words), os.fdopen(events, "w"))
            except BaseException as error:
                os.write(errors, f"{type(error).__name__}: {error}\n".encode())
                code = 1
            os._exit(code)
        for descriptor in (words, events, errors):
            os.close(descriptor)
        self.stdin: IO[str] | None = os.fdopen(self._words, "w")
        self.stdout: IO[str] | None = os.fdopen(self._events)
        self.stderr: IO[str] | None = os.fdopen(nothing)
        self._code: int | None = None

    def wait(self) -> int:
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def kill(self) -> None:
        if self._code is None:
            os.kill(self.pid, 9)


def forking(before: Callable[[Job], None] = lambda _: None) -> Callable[[Job], Forked]:
    """A launcher; `before` is called in the child with the job and may break things."""
    return lambda job: Forked(job, before)


@dataclass
class Heard:
    """A listener that remembers."""

    notes: list[str] = field(default_factory=list)
    stages: list[tuple[str, str]] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, device: str, model: str, stage: str) -> None:
        self.stages.append((device, stage))

    def timing(self, device: str, progress: Any) -> None: ...
    def evaluating(self, device: str, done: int, total: int) -> None: ...


def controls(before: Callable[[Job], None] = lambda _: None, **changes: Any) -> Controls:
    return Controls(**{"listener": Heard(), "launch": forking(before), **changes})


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
