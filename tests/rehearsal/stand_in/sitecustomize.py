"""Found by every Python process whose PYTHONPATH has this folder: torch gets stand-in GPUs when it is imported.

Time runs HASTE times as fast in such a process, so that a block of 0.4 seconds and half a minute of energy are over soon.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Sequence
from types import ModuleType

HASTE = 20


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


if os.environ.get("STAND_IN_GPUS"):
    sys.meta_path.insert(0, _Finder())
    perf_counter, monotonic, sleep = time.perf_counter, time.monotonic, time.sleep
    time.perf_counter = lambda: HASTE * perf_counter()
    time.monotonic = lambda: HASTE * monotonic()
    time.sleep = lambda seconds: sleep(seconds / HASTE)
