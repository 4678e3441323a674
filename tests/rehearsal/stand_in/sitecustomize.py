"""Found by every Python process whose PYTHONPATH has this folder: torch gets stand-in GPUs when it is imported.

With STAND_IN_READY, the socket of a process that has imported torch and its stand-in (tests/ready.py), a module of the package
runs in a fork of that one, and this process only passes on signals and the exit code: an import of torch takes 2 s. In a
process that measures, time runs HASTE times as fast, so that half a minute of energy is over soon.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from types import ModuleType

HASTE = 40
MEASURING = ("rmeeto_bench.bench.session.worker", "rmeeto_bench.measure.devices.poller", "gpu_check.py")
LIGHT = "rmeeto_bench.measure.devices.poller"  # it imports no torch, and its parent is the process that it watches for


class _Loader(importlib.abc.Loader):
    """Torch's own loader, and the stand-in after it."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As torch's loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Load torch, then put the stand-in into it."""
        self.loader.exec_module(module)
        import stand_in_gpu

        stand_in_gpu.install()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds torch once."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of torch with our loader."""
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _Loader(spec.loader)
        return spec


def hurry(words: Sequence[str]) -> None:
    """Let time run faster if a process with these words measures."""
    if not any(word.endswith(MEASURING) for word in words):
        return
    perf_counter, monotonic, sleep = time.perf_counter, time.monotonic, time.sleep
    time.perf_counter = lambda: HASTE * perf_counter()
    time.monotonic = lambda: HASTE * monotonic()
    time.sleep = lambda seconds: sleep(seconds / HASTE)


def hand_over(words: Sequence[str], path: str) -> None:
    """Have the module run in a fork of the process that is ready, and end as it ends."""
    told = {"words": words, "cwd": os.getcwd(), "variables": dict(os.environ)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.connect(path)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: link.send(str(int(number)).encode()))
        socket.send_fds(link, [json.dumps(told).encode()], [0, 1, 2])
        code = int(link.recv(8))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if os.environ.get("STAND_IN_GPUS"):
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
    if "STAND_IN_READY" in os.environ and module and module[0].startswith("rmeeto_bench") and module[0] != LIGHT:
        hand_over(module, os.environ["STAND_IN_READY"])
    sys.meta_path.insert(0, _Finder())
    hurry(sys.orig_argv)
