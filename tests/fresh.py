"""Commands as a user gives them, each in a fresh process, and what it said."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PLAIN = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Done(NamedTuple):
    """What a command did."""

    # Exit code.
    code: int
    # Standard output.
    out: str
    # Standard error.
    err: str

    def lines(self, part: str) -> list[str]:
        """The lines of standard error with this in them."""
        return [line for line in self.err.splitlines() if part in line]


@functools.cache
def _ready() -> subprocess.Popen[str]:
    """The process that forks."""
    script = Path(__file__).with_name("ready.py")
    environment = {**os.environ, **PLAIN}
    process = subprocess.Popen(
        [sys.executable, "-P", script],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    atexit.register(process.stdin.close)  # it ends then
    return process


def start(words: Sequence[object], cwd: Path, variables: Mapping[str, str]) -> Done:
    """A command with these variables and no others."""
    process = _ready()
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        told = {"words": [str(word) for word in words], "cwd": str(cwd), "variables": dict(variables)}
        try:
            print(json.dumps(told | {"files": [out.name, err.name]}), file=process.stdin, flush=True)
            assert process.stdout is not None
            code = int(process.stdout.readline())
        except BaseException:  # a time limit, or Ctrl-C: neither the command nor its late answer may stay
            os.killpg(process.pid, signal.SIGKILL)
            _ready.cache_clear()
            raise
        return Done(code, out.read(), err.read())


def commands(*words: Sequence[object], cwd: Path, columns: int = 160) -> list[Done]:
    """What each command did, one after the other in `cwd`."""
    return [start(command, cwd, {**os.environ, **PLAIN, "COLUMNS": str(columns)}) for command in words]
