"""The compiled kernels for this processor: shipped in the package, found in the user's cache, or built on first use.

The processor's best instruction set is taken; if its kernels can be neither found nor built, the next one is.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmeeto_bench.errors import UnavailableError, UsageError
from rmeeto_bench.files import cache_folder
from rmeeto_bench.kernels.native.compiling import HERE, compile_library, compilers, file_name, instruction_sets, intact
from rmeeto_bench.kernels.native.trust import distrust

SHIPPED = HERE / "shipped"  # filled by the build of the wheel (hatch_build.py); a checkout has none
LANES = {"avx512": 16, "avx2": 8, "sse2": 4, "neon": 4, "generic": 4}
WRONG = {
    1: "the native scan serves 4, 8 or 16 states",
    2: "a row of the merging plan is outside the tokens it is for",
}


@dataclass(frozen=True)
class Library:
    """Loaded kernels."""

    dll: ctypes.CDLL  # the shared library, whose functions take bare addresses
    isa: str  # instruction set: avx512, avx2, sse2, neon or generic
    source: str  # "shipped in the package", or "built in FOLDER" with the command if this process built it

    def run(self, function: str, *arguments: Any) -> None:
        """Call a kernel with torch's number of threads. Raises `UsageError` where it refuses its arguments."""
        code = getattr(self.dll, function)(*arguments, torch.get_num_threads())
        if code:
            raise UsageError(WRONG.get(code, f"{function} failed with code {code}"))


def _team() -> ctypes.c_void_p | None:
    """The function of torch's OpenMP runtime that starts a team of threads; None if it cannot be found."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    mapped = {line.split(maxsplit=5)[5] for line in lines if "/" in line}
    runtimes = [path for path in mapped if re.match(r"lib(gomp|iomp5|omp)\b", Path(path).name)]
    home = str(Path(torch.__file__).parent)
    for path in sorted(runtimes, key=lambda path: (not path.startswith(home), path)):
        try:
            return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, ctypes.c_void_p)
        except (OSError, AttributeError):
            continue
    return None


def _load(path: Path, isa: str, source: str) -> Library:
    """Load a library that is known to be ours. Raises `OSError` if it is for another architecture or system."""
    dll = ctypes.CDLL(str(path))
    if dll.rmeeto_lanes() != LANES[isa]:
        raise OSError(f"{path} was not compiled for {isa}")
    dll.rmeeto_use_team(_team())
    return Library(dll, isa, source)


def _folders() -> Iterator[Path]:
    """Where libraries are kept: the user's cache, or else a folder of the user's own among the temporary files."""
    yield cache_folder("native")
    yield Path(tempfile.gettempdir()) / f"rmeeto_bench-native-{os.getuid()}"


def _usable_folder(problems: list[str]) -> Path:
    for folder in _folders():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid == os.getuid() and not folder.is_symlink():
                folder.chmod(0o700)
            reason = distrust(folder)
            if reason is None and not os.access(folder, os.W_OK) and not any(folder.glob("*.so")):
                reason = f"{folder} cannot be written"
        except OSError as error:
            reason = f"{folder} cannot be used ({error.strerror})"
        if reason is None:
            return folder
        problems.append(reason)
    raise UnavailableError(f"there is no folder for the CPU kernels: {'; '.join(problems)}")


def _processor_sets() -> list[str]:
    """The instruction sets of this processor (as torch reports it) that have kernels, best first."""
    names = list(instruction_sets())
    capability = torch.backends.cpu.get_cpu_capability()
    if "avx512" in names and "AVX512" not in capability:
        names.remove("avx512")
        if "AVX2" not in capability:
            names.remove("avx2")
    return names


def _shipped(isa: str, problems: list[str]) -> Library | None:
    path = SHIPPED / file_name(isa)
    if not path.is_file():
        return None
    reason = distrust(path, owners={Path(__file__).stat().st_uid})
    if reason is None and not intact(path):
        reason = f"{path} is damaged; install the package again"
    if reason is None:
        try:
            return _load(path, isa, "shipped in the package")
        except OSError as error:
            reason = str(error)
    problems.append(reason)
    return None


def _built(isa: str, folder: Path, commands: list[list[str]], problems: list[str]) -> Library:
    path = folder / file_name(isa)
    for command in (None, *commands):  # None: the library that is there
        try:
            if command is not None:
                compile_library(command, isa, path)
            if path.exists() and distrust(path) is None and intact(path):
                return _load(path, isa, f"built in {folder}" + (f" by {' '.join(command)}" if command else ""))
        except UnavailableError as error:
            problems.append(str(error))
        except OSError as error:  # another architecture's compiler, or a library of another system in a shared home
            problems.append(f"{' '.join(command) if command else path.name}: {error}")
    raise UnavailableError(problems[-1] if problems else "no compiler")


def find(isas: list[str], *, build: bool = True) -> Library:
    """The best library of these instruction sets, compiled if need be and `build`.

    Raises `UnavailableError` with the reasons and a remedy.
    """
    problems: list[str] = []
    folder: Path | None = None
    for isa in isas:
        found = _shipped(isa, problems)
        if found is not None:
            return found
    commands, wrong = compilers() if build else ([], [])
    for isa in isas:
        try:
            folder = folder or _usable_folder(problems)
            found = _built(isa, folder, commands, problems)
        except UnavailableError:
            continue
        problems += wrong if "by " in found.source else []
        if problems:
            reasons = " ".join("; ".join(dict.fromkeys(problems)).split())
            print(f"rmeeto-bench: the CPU kernels for {isa} are {found.source}, as {reasons}", file=sys.stderr)
        return found
    problems += wrong
    if not commands:
        problems.append("no C++ compiler was found")
    reasons = "; ".join(dict.fromkeys(problems))
    raise UnavailableError(
        f"the fast CPU kernels are neither shipped nor built: {reasons}; install g++ (Debian: apt install g++)"
    )


_chosen: list[Library | UnavailableError] = []


def library() -> Library:
    """The kernels of this process, chosen once. Raises `UnavailableError` with the reason if there are none."""
    if not _chosen:
        try:
            _chosen.append(find(_processor_sets()))
        except UnavailableError as error:
            _chosen.append(error)
    if isinstance(_chosen[-1], UnavailableError):
        raise _chosen[-1]
    return _chosen[-1]


def describe() -> str | None:
    """Instruction set and origin of the kernels, without a path, for records; None where there are none yet."""
    try:
        found = library() if _chosen else find(_processor_sets(), build=False)
        return f"{found.isa}, {found.source.partition(' in ')[0]}"
    except UnavailableError:
        return None


@functools.cache
def _of(isa: str) -> Library:
    """The kernels of one instruction set: their file is read and checked once, which takes longer than a scan."""
    return find([isa])


@contextmanager
def using(isa: str) -> Iterator[Library]:
    """Use the kernels of another instruction set within the `with` block, to compare them."""
    _chosen.append(_of(isa))
    try:
        yield library()
    finally:
        _chosen.pop()


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of a tensor's data, for a call of the library; null for None. The caller keeps the tensor alive."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
