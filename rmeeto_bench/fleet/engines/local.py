"""What an engine is: it carries tasks to machines of the right kind and brings their events back. It decides nothing else."""

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
class Limits:
    """How long to wait: `deadline` seconds for a task from its submission, `patience` seconds for a kind of machine that was
    lost to come back. `tries`: how often a task whose machine was lost is started in all."""

    deadline: float = 6 * 3600.0
    patience: float = 60.0
    tries: int = 2


class Engine(Protocol):
    """Ray, Slurm, or this machine."""

    def missing(self, kinds: Sequence[str]) -> Mapping[str, str]:
        """Kinds that no machine here has, each with what to do about it in one line."""
        ...

    def run(self, tasks: Sequence[Task], out: Path) -> Iterator[Event]:
        """Carry out all tasks and yield events as they come; each task ends in exactly one final event."""
        ...


def profile_of(kind: str) -> GpuProfile:
    """The profile of a kind that `check_kinds` let pass."""
    return next(profile for profile in load_profiles() if profile.name == kind)


class LocalEngine:
    """This machine, one task after the other."""

    def missing(self, kinds: Sequence[str]) -> Mapping[str, str]:
        """Nothing: a run says itself that it finds no such GPU."""
        return {}

    def run(self, tasks: Sequence[Task], out: Path) -> Iterator[Event]:
        """Each task in a fresh process."""
        for task in tasks:
            yield from carry_out(task, out / CELLS / task.id, ship=False)


def needs_gpu(task: Task) -> bool:
    """Whether a task must be given a GPU; a simulated one is asked for too, so that the way of a real one is seen."""
    return task.kind != CPU
