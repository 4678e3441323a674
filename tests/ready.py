"""A process that has imported libraries and nothing of ours, and forks: a child is as fresh as a new process, 2 s sooner.

Its one argument is the socket on which it listens; it ends with its standard input. Who connects sends, in one message, the
words after `python -m`, the folder and the variables in JSON, and its three files. Numbers that follow are signals for the
child, the answer is the child's exit code, and a connection that closes ends the child.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
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
import torch._dynamo
import torch.utils.data  # noqa: F401

MESSAGE = 2**17  # bytes at most


def become(told: dict[str, Any], files: list[int]) -> None:
    """Take the place, the files, the variables and the words of the command."""
    os.setsid()
    os.chdir(told["cwd"])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0)  # noqa: SIM115  (the old one may hold what the parent was told)
    os.environ.clear()
    os.environ.update(told["variables"])
    sys.path[:0] = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.argv = told["words"]
    if hasattr(sys.modules.get("sitecustomize"), "hurry"):  # the rehearsal's
        sys.modules["sitecustomize"].hurry(sys.argv)


def run() -> int:
    """The command, to the end of its threads and of what it registered for the end. Freeing torch's objects takes 0.5 s."""
    code: Any = 0
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
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


def attend(link: socket.socket) -> None:
    """Start what a connection asks for, pass its signals on, and answer with the exit code."""
    message, files, _, _ = socket.recv_fds(link, MESSAGE, 3)
    child = os.fork()
    if child == 0:
        link.close()
        become(json.loads(message), files)
        os._exit(run())
    for file in files:
        os.close(file)

    def pass_on() -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            while word := link.recv(8):
                os.kill(child, int(word))
            os.kill(child, signal.SIGKILL)

    threading.Thread(target=pass_on, daemon=True).start()
    link.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def reap(*_: object) -> None:
    """Take leave of those that have ended; their processor time counts as this process's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main(path: str) -> None:
    """Fork for each connection."""
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen(64)
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, reap)
        while 0 not in select.select([server, 0], [], [])[0]:
            link, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                attend(link)
                os._exit(0)
            link.close()


main(sys.argv[1])
