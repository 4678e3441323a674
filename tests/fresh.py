"""Commands as a user gives them, each in a fresh process, and what it said."""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
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
def ready(*, variables: tuple[tuple[str, str], ...] = ()) -> str:
    """The socket of a process that forks, started with these variables besides the plain ones."""
    folder = tempfile.TemporaryDirectory(prefix="ready-")
    path = f"{folder.name}/socket"
    script = Path(__file__).with_name("ready.py")
    environment = {**os.environ, **PLAIN, **dict(variables)}
    process = subprocess.Popen(
        [sys.executable, "-P", script, path],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    atexit.register(folder.cleanup)
    atexit.register(process.wait)
    atexit.register(process.stdin.close)  # it ends then
    return path


def start(words: Sequence[object], cwd: Path, variables: Mapping[str, str], server: str = "") -> Done:
    """A command with these variables and no others."""
    told = {"words": ["rmeeto_bench", *map(str, words)], "cwd": str(cwd), "variables": dict(variables)}
    with (
        open(os.devnull) as nothing,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link,  # where it closes, at a time limit, the command ends
    ):
        link.connect(server or ready())
        socket.send_fds(link, [json.dumps(told).encode()], [file.fileno() for file in (nothing, out, err)])
        code = int(link.recv(8))
        for file in (out, err):
            file.seek(0)
        return Done(code, out.read(), err.read())


def commands(*words: Sequence[object], cwd: Path, columns: int = 160) -> list[Done]:
    """What each command did, one after the other in `cwd`."""
    return [start(command, cwd, {**os.environ, **PLAIN, "COLUMNS": str(columns)}) for command in words]
