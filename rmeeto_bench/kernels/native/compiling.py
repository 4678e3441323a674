"""Compile the C++ kernels for one instruction set. Imports only the standard library: the wheel's build uses it, too.

One compiler call of some seconds without torch's headers: the kernels take plain pointers. A library's name holds the
digest of all that it was made of, so sources that changed never meet an older library.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from rmeeto_bench.errors import UnavailableError

HERE = Path(__file__).parent
SOURCES = ("tasks.cpp", "scan.cpp", "conv.cpp", "norm.cpp", "merge.cpp")
HEADERS = ("vector.h", "tasks.h")
# No -ffast-math: exp2 relies on the order of additions.
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread")
INSTRUCTION_SETS: dict[
    str, dict[str, tuple[str, ...]]
] = {  # by machine, best first: name -> flags. The last one runs on every such machine.
    "x86_64": {
        "avx512": ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"),
        "avx2": ("-mavx2", "-mfma"),
        "sse2": (),
    },
    "aarch64": {"neon": ()},
}
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}  # what a library's header calls them
COMPILER_SECONDS = 300


def instruction_sets(machine: str | None = None) -> dict[str, tuple[str, ...]]:
    """Instruction set -> compiler flags, best first, for a machine (this one)."""
    return INSTRUCTION_SETS.get(machine or platform.machine(), {"generic": ()})


def file_name(name: str, machine: str | None = None) -> str:
    """The library's name for an instruction set."""
    digest = hashlib.sha256("\0".join((*FLAGS, *instruction_sets(machine)[name])).encode())
    for source in (*HEADERS, *SOURCES):
        digest.update((HERE / source).read_bytes())
    return f"kernels-{machine or platform.machine()}-{name}-{digest.hexdigest()[:16]}.so"


def compilers() -> tuple[list[list[str]], list[str]]:
    """The commands to try in turn, CXX first, and what is wrong with the CXX that is set."""
    found, problems = [], []
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError:
        chosen = [os.environ["CXX"]]
    if chosen and shutil.which(chosen[0]) is None:
        problems.append(f"CXX={os.environ['CXX']} is no program")
        chosen = []
    for command in (chosen, ["g++"], ["clang++"], ["c++"]):
        if command and shutil.which(command[0]) and command not in found:
            found.append(command)
    return found, problems


def write_digest(library: Path) -> None:
    """Write the digest of a library beside it, so that a truncated one is never loaded."""
    library.with_suffix(".sha256").write_text(hashlib.sha256(library.read_bytes()).hexdigest() + "\n", encoding="ascii")


def intact(library: Path) -> bool:
    """Whether a library is unchanged since its digest was written."""
    try:
        right = library.with_suffix(".sha256").read_text(encoding="ascii").strip()
        return hashlib.sha256(library.read_bytes()).hexdigest() == right
    except (OSError, ValueError):
        return False


def _foreign(library: Path, machine: str) -> bool:
    """Whether a library is for processors other than `machine`, as a cross compiler's would be."""
    header = library.read_bytes()[:20]
    return machine in ELF_MACHINES and int.from_bytes(header[18:20], "little") != ELF_MACHINES[machine]


def compile_library(command: list[str], name: str, target: Path, machine: str | None = None) -> None:
    """Compile to `target`, with its digest beside it. Raises `UnavailableError` with the compiler's last word."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / target.name
        flags = (*FLAGS, *instruction_sets(machine)[name])
        line = [*command, *flags, *(str(HERE / source) for source in SOURCES), "-o", str(built)]
        try:
            done = subprocess.run(
                line,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=COMPILER_SECONDS,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"{command[0]} does not work: {error}") from error
        if done.returncode or not built.is_file():
            last = (done.stderr.strip().splitlines() or ["it wrote no library"])[-1]
            raise UnavailableError(f"{' '.join(command)} could not build the CPU kernels: {last}")
        machine = machine or platform.machine()
        if _foreign(built, machine):
            raise UnavailableError(f"{' '.join(command)} builds for another kind of processor than {machine}")
        write_digest(built)
        os.chmod(built, 0o600)
        built.with_suffix(".sha256").replace(target.with_suffix(".sha256"))
        built.replace(target)
