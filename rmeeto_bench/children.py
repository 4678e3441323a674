"""How a child process is started: it reads none of our input, imports nothing from the current folder, and ends with us."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

PARENT_DEATH = 1  # Linux: PR_SET_PDEATHSIG
# Runs before the command, under the same process id. It imports from the standard library alone (-I -S).
BINDING = f"""import ctypes, os, sys
try:
    ctypes.CDLL(None).prctl({PARENT_DEATH}, {int(signal.SIGKILL)})
except (AttributeError, OSError):
    pass
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@functools.cache
def _prctl() -> Callable[[int, int], int] | None:
    """The system call that binds a process to its parent; None where the system is not Linux."""
    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return None
    return found


def bind(parent: int) -> None:
    """In a child that was forked: end when its parent ends, however that happens. Call `prepare_fork` before the fork."""
    prctl = _prctl()
    if prctl is not None:
        prctl(PARENT_DEATH, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent was gone before


def prepare_fork() -> None:
    """Load what `bind` needs: a forked child loads no library."""
    _prctl()


def bound(command: Sequence[str | Path]) -> list[str]:
    """The command, as a child that the system ends when this process ends, even by SIGKILL.

    Start it from the thread that waits for it: the system counts the end of that thread as the parent's.
    """
    words = [str(word) for word in command]
    return [sys.executable, "-I", "-S", "-c", BINDING, str(os.getpid()), *words]


def python(module: str, *words: str) -> list[str]:
    """The command that runs a module of this package in a bound child; give it the variables of `variables`."""
    return bound([sys.executable, "-P", "-m", module, *words])


def variables() -> dict[str, str]:
    """This process's variables for a child in Python: it finds this package, and nothing in the current folder."""
    values = dict(os.environ)
    given = [place for place in values.get("PYTHONPATH", "").split(os.pathsep) if place]  # an empty place is the current folder
    values["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *given])
    values["PYTHONSAFEPATH"] = "1"  # for the children's own children
    return values
