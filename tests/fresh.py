"""Commands as a user gives them, several in one fresh process: importing torch is what a process costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PROGRAM = """
import contextlib, io, json, sys
from rmeeto_bench.cli.main import main
done = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as error:
            code = error.code
    done.append((code, out.getvalue(), err.getvalue()))
json.dump(done, sys.stdout)
"""


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


def commands(*words: Sequence[object], cwd: Path, columns: int = 160) -> list[Done]:
    """Each command's exit code and what it said, run one after the other in one fresh process in `cwd`."""
    told = json.dumps([[str(word) for word in command] for command in words])
    environment = {**os.environ, "COLUMNS": str(columns), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=told, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return [Done(*parts) for parts in json.loads(process.stdout)]
