"""How many processor cores this process may use: by its affinity (taskset, Slurm) and by the quota of its container."""

from __future__ import annotations

import functools
import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
STEP_THREADS = "RMEETO_BENCH_STEP_THREADS"  # variable of a worker on a CPU: the threads of what is timed
SHORT_WAIT = "10000"  # turns of libgomp's waiting loop before a thread sleeps, about a fifth of a millisecond


def short_waits(variables: MutableMapping[str, str]) -> None:
    """Let threads that wait for each other soon sleep, by the variables of a process that has not loaded torch yet.

    On two cores at a load of three, threads that wait for long made a forward of the bundled model take 7 to 25 times its
    time, and about three times if they soon sleep. Alone on the machine the difference was lost in the noise.
    """
    variables.setdefault("GOMP_SPINCOUNT", SHORT_WAIT)


def affinity() -> int:
    """Cores that the system may run this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _share(folder: Path) -> float | None:
    """Cores' worth of time that one control group allows; None for no limit, or none that can be read."""
    try:
        if (folder / "cpu.max").is_file():
            allowed, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:  # version 1 of control groups
            allowed, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return None if allowed == "max" or int(allowed) <= 0 else int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def quota(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """The least share of processor time of this process's control groups and those above them, in cores; None: no limit."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    shares = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        folder = base / path.lstrip("/")
        while True:
            shares.append(_share(folder))
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent
    return min((share for share in shares if share is not None), default=None)


_quota = functools.cache(quota)


def within_quota(threads: int) -> int:
    """So many threads, or fewer where the quota is less: they would wait for each other."""
    share = _quota()
    return threads if share is None else max(1, min(threads, int(share)))


def cores() -> int:
    """Cores this process may use. Ask before OpenMP binds threads (OMP_PROC_BIND): then the affinity is one thread's own."""
    return within_quota(affinity())
