"""Builds the C++ kernels on first use with the machine's own compiler, and keeps the library in the user's cache.

One compiler call of a few seconds without torch's headers: the kernels take plain pointers. Where there is no
compiler the caller gets the reason as `UnavailableError` and takes another backend.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from torch import Tensor

from rmeeto_bench.errors import UnavailableError

SOURCES = ("scan.cpp", "conv.cpp", "norm.cpp", "merge.cpp")
# No -ffast-math: exp2 and softplus rely on the order of additions.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared")


def _processor() -> str:
    """What `-march=native` depends on: a library in a shared home directory must not reach another processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        path = shutil.which(name) if name else None
        if path:
            return path
    raise UnavailableError("no C++ compiler found for the fast CPU kernels; install g++ (Debian: apt install g++)")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rmeeto_bench"


def _compile(compiler: str, target: Path) -> None:
    here = Path(__file__).parent
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / target.name
        command = [compiler, *FLAGS, *(str(here / name) for name in SOURCES), "-o", str(built)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UnavailableError(f"{compiler} could not build the fast CPU kernels: {last}")
        built.replace(target)


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded kernels. Raises `UnavailableError` with the reason where they cannot be built or loaded."""
    compiler = _compiler()
    here = Path(__file__).parent
    digest = hashlib.sha256("".join((compiler, *FLAGS, _processor())).encode())
    for name in ("vector.h", *SOURCES):
        digest.update((here / name).read_bytes())
    target = _cache() / f"native-{digest.hexdigest()[:16]}.so"
    try:
        if not target.exists():
            _compile(compiler, target)
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise UnavailableError(f"cannot write or load the fast CPU kernels in {target.parent}: {error}") from error


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's data lies, for a call of the library; null for None. The caller keeps the tensor alive."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
