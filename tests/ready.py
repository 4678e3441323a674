"""A process that has imported libraries and nothing of ours, and forks: a child is as fresh as a new process, 2 s sooner.

A line of standard input is a command in JSON; the answer is a line with its exit code.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import sys
import threading
import traceback
from typing import Any

# What each new process would spend its time on; none of these reads a variable or a file that a test sets.
import matplotlib.figure  # noqa: F401
import pandas  # noqa: F401
import PIL.Image  # noqa: F401
import rich.table  # noqa: F401
import safetensors.torch  # noqa: F401
import scipy.stats  # noqa: F401
import torch.utils.data  # noqa: F401


def become(told: dict[str, Any]) -> None:
    """Take the place, the files, the variables and the words of the command."""
    os.chdir(told["cwd"])
    for number, (path, how) in enumerate([(os.devnull, os.O_RDONLY), *((path, os.O_WRONLY) for path in told["files"])]):
        os.dup2(os.open(path, how), number)
    sys.stdin = open(0)  # noqa: SIM115  (the old one may hold what the parent was told)
    os.environ.clear()
    os.environ.update(told["variables"])
    sys.path[:0] = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.argv = ["rmeeto-bench", *told["words"]]


def run() -> int:
    """The command, to the end of its threads and of what it registered for the end. Freeing torch's objects takes 0.5 s."""
    code: Any = 0
    try:
        runpy.run_module("rmeeto_bench", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)


gc.freeze()
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        become(json.loads(line))
        os._exit(run())
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
