"""The interface of an engine, which sends tasks to machines of the right kind and returns their events; and the local one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rmeeto_bench.fleet.host import Event, carry_out
from rmeeto_bench.fleet.plan import CPU, Task
from rmeeto_bench.profiles import GpuProfile, load_profiles

CELLS = "cells"  # folder of a fleet's output: a run folder per task


@dataclass(frozen=True)
class Patience:
    """How long an engine waits, and how often it tries."""

    deadline: float = 6 * 3600.0  # seconds for a task, from its submission
    patience: float = 60.0  # seconds for a lost kind of machine to come back
    tries: int = 2  # starts of a task in all, if its machine is lost


class Engine(Protocol):
    """Ray, Slurm, or this machine."""

    def missing(self, kinds: Sequence[str]) -> Mapping[str, str]:
        """Kinds that no machine has -> what to do about it, in one line."""
        ...

    def run(self, tasks: Sequence[Task], out: Path) -> Iterator[Event]:
        """Carry out all tasks and yield events as they come; each task ends in exactly one final event."""
        ...


def profile_of(kind: str) -> GpuProfile:
    """The profile of a kind that `check_kinds` has accepted."""
    return next(profile for profile in load_profiles() if profile.name == kind)


class LocalEngine:
    """This machine, one task after the other."""

    def missing(self, kinds: Sequence[str]) -> Mapping[str, str]:
        """Nothing: the run itself reports a GPU that it does not find."""
        return {}

    def run(self, tasks: Sequence[Task], out: Path) -> Iterator[Event]:
        """Each task in a fresh process."""
        for task in tasks:
            yield from carry_out(task, out / CELLS / task.id, ship=False)


def needs_gpu(task: Task) -> bool:
    """Whether a task must be given a GPU. A simulated GPU is requested, too, so that the path of a real one is tested."""
    return task.kind != CPU
