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
    # the old ones know what files they were: one that can be searched, as a log can, stands for a pipe now
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
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


class Server:
    """Forks for each connection, and tells it how the child ended. It has no threads: they would not survive a fork."""

    def __init__(self, path: str) -> None:
        self.asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.asked.bind(path)
        self.asked.listen(64)
        self.woken, self.bell = socket.socketpair()  # rung by a child that ended
        self.bell.setblocking(False)
        self.links: dict[int, socket.socket] = {}  # process -> who asked for it
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.bell.fileno())

    def serve(self) -> None:
        """Until standard input ends."""
        while 0 not in (ready := select.select([0, self.asked, self.woken, *self.links.values()], [], [])[0]):
            for pid, link in self.links.items():
                if link in ready:
                    os.kill(pid, int(link.recv(8) or signal.SIGKILL))
            if self.woken in ready:
                self.woken.recv(64)
                self.answer()
            if self.asked in ready:
                self.fork()

    def answer(self) -> None:
        """Tell of the children that have ended."""
        while self.links and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with self.links.pop(ended[0]) as link, contextlib.suppress(OSError):  # nobody may listen any more
                link.send(str(os.waitstatus_to_exitcode(ended[1])).encode())

    def fork(self) -> None:
        """A child for the next connection."""
        link, _ = self.asked.accept()
        message, files, _, _ = socket.recv_fds(link, MESSAGE, 3)
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (link, self.asked, self.woken, self.bell, *self.links.values()):
                other.close()
            become(json.loads(message), files)
            os._exit(run())
        self.links[child] = link
        for file in files:
            os.close(file)


server = Server(sys.argv[1])
gc.freeze()
print("ready", flush=True)
server.serve()
