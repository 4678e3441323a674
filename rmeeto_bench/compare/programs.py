"""The two programs of a gate: a git ref, a folder, a wheel or a stored run, made ready to be started in fresh processes.

Refs become worktrees and wheels unpacked folders below the cache; both are kept, as is the virtual environment of a side whose
dependencies differ from ours.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO

from rmeeto_bench import children
from rmeeto_bench.compare.turn_server import Turnstile
from rmeeto_bench.errors import MeasurementError, UnavailableError, UsageError
from rmeeto_bench.measure.turns import VARIABLE
from rmeeto_bench.records.run import MANIFEST, RunRecord, load

PACKAGE = Path("rmeeto_bench", "__init__.py")
TURNS = Path("rmeeto_bench", "measure", "turns.py")
FAREWELL = 5.0  # seconds for a side that was told to end
OWN_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Side:
    """One program."""

    given: str  # as the user wrote it
    kind: str  # ref, folder, wheel or stored
    path: Path  # what goes on Python's path; stored: folder of the run
    python: Path  # interpreter with the program's dependencies
    commit: str | None = None  # of a ref; None: not one

    @property
    def label(self) -> str:
        """For tables: what was given, with the commit."""
        return f"{self.given} ({self.commit[:12]})" if self.commit else self.given


def _call(command: Sequence[str | Path], what: str) -> str:
    """Standard output of a command. Raises `UnavailableError` with its last line if it fails."""
    if shutil.which(command[0]) is None:
        raise UnavailableError(f"{what}: there is no program {command[0]} that can be started; install it")
    done = subprocess.run(children.bound(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise UnavailableError(f"{what} failed: {said}")
    return done.stdout.strip()


def _commit(given: str, repository: Path) -> str:
    try:
        return _call(["git", "-C", repository, "rev-parse", "--verify", "--quiet", f"{given}^{{commit}}"], "git rev-parse")
    except UnavailableError:
        raise UsageError(
            f"{given!r} is no commit of the repository here, no folder with rmeeto_bench, no wheel and no stored run; "
            "in CI, fetch the whole history (fetch-depth: 0)"
        ) from None


def _worktree(commit: str, repository: Path, cache: Path) -> Path:
    """A checkout of a commit, made once."""
    tree = cache / "trees" / commit[:16]
    if not (tree / PACKAGE).is_file():
        tree.parent.mkdir(parents=True, exist_ok=True)
        _call(["git", "-C", repository, "worktree", "prune"], "git worktree prune")
        _call(["git", "-C", repository, "worktree", "add", "--force", "--detach", tree, commit], "git worktree add")
    if not (tree / PACKAGE).is_file():
        raise UsageError(f"commit {commit[:12]} has no {PACKAGE.parent} package; choose a later one")
    return tree


def _unpacked(wheel: Path, cache: Path) -> Path:
    """A wheel installed without dependencies into a folder of its own, once per content."""
    target = cache / "wheels" / hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
    if not (target / PACKAGE).is_file():
        _call(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel],
            f"installing {wheel.name}",
        )
    if not (target / PACKAGE).is_file():
        raise UsageError(f"{wheel} holds no {PACKAGE.parent} package; give a wheel of rmeeto-bench")
    return target


def _normal(requirements: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(re.sub(r"\s+", "", text).lower().replace("_", "-") for text in requirements if "extra" not in text))


def _declared(root: Path) -> tuple[str, ...] | None:
    """The dependencies in a tree's pyproject.toml."""
    path = root / "pyproject.toml"
    if not path.is_file():
        return None
    return _normal(tomllib.loads(path.read_text(encoding="utf-8")).get("project", {}).get("dependencies", []))


def _own_dependencies() -> tuple[str, ...] | None:
    """Of the package that runs now, whose interpreter evidently has them."""
    declared = _declared(OWN_ROOT)
    if declared is not None:
        return declared
    try:
        return _normal(metadata.requires("rmeeto-bench") or [])
    except metadata.PackageNotFoundError:
        return None


def _interpreter(root: Path, cache: Path) -> Path:
    """This interpreter where the dependencies are the same, else one of an environment made for them and kept."""
    wanted, own = _declared(root), _own_dependencies()
    if wanted is None or own is None or wanted == own:
        return Path(sys.executable)
    folder = cache / "venvs" / hashlib.sha256("\n".join((sys.version, *wanted)).encode()).hexdigest()[:16]
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.is_file():
        _call([sys.executable, "-m", "venv", "--clear", folder], "making a virtual environment")
        _call([python, "-m", "pip", "install", "--quiet", *wanted], "installing the dependencies of the other side")
        ready.touch()
    return python


def resolve(given: str, repository: Path, cache: Path) -> Side:
    """Make a side ready. Raises `UsageError` for what is neither a ref, folder, wheel nor run, `UnavailableError` if git or
    pip fail."""
    path = Path(given)
    if path.suffix == ".whl":
        if not path.is_file():
            raise UsageError(f"there is no wheel {given}; build it first")
        return Side(given, "wheel", _unpacked(path, cache), Path(sys.executable))
    if (path / MANIFEST).is_file():
        return Side(given, "stored", path.resolve(), Path(sys.executable))
    if (path / PACKAGE).is_file():
        root = path.resolve()
        return Side(given, "folder", root, _interpreter(root, cache))
    commit = _commit(given, repository)
    tree = _worktree(commit, repository, cache)
    return Side(given, "ref", tree, _interpreter(tree, cache), commit)


def takes_turns(side: Side) -> bool:
    """Whether a side's program knows how to wait for its turn."""
    return (side.path / TURNS).is_file()


def start_together(sides: Mapping[str, Side], flags: Sequence[str], outs: Mapping[str, Path]) -> dict[str, RunRecord]:
    """A fresh process of each side at the same time, that take turns block by block in the order given. Raises as `start`."""
    turnstile = Turnstile(list(sides))
    running: dict[str, RunningSide] = {}
    try:
        for name, side in sides.items():
            running[name] = _launch(side, flags, outs[name], {VARIABLE: turnstile.variable(name)})
        turnstile.serve({name: one.process for name, one in running.items()})
    finally:
        turnstile.close()
        for one in running.values():
            end(one.process)
    return {name: _record(side, running[name], outs[name]) for name, side in sides.items()}


def start(side: Side, flags: Sequence[str], out: Path) -> RunRecord:
    """One fresh process of a side: a whole `rmeeto-bench run` with these flags, and its record.

    Raises `MeasurementError` if it fails or another program than the side's was measured.
    """
    one = _launch(side, flags, out, {})
    try:
        one.process.wait()
    finally:
        end(one.process)
    return _record(side, one, out)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs: it may save what it has, but is not waited for long."""
    process.terminate()
    try:
        process.wait(FAREWELL)
    except subprocess.TimeoutExpired:
        process.kill()  # its workers end with it
        process.wait()


@dataclass
class RunningSide:
    """A process of a side."""

    process: subprocess.Popen[bytes]  # the process
    errors: IO[bytes]  # file of its standard error


def _launch(side: Side, flags: Sequence[str], out: Path, variables: Mapping[str, str]) -> RunningSide:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    environment |= {"PYTHONPATH": str(side.path), "PYTHONSAFEPATH": "1"}  # its workers must not find the package in the cwd
    command = [str(side.python), "-P", "-m", "rmeeto_bench", "run", *flags, "--out", str(out)]
    errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed when it was read; a pipe that nobody reads would fill
    process = subprocess.Popen(
        children.bound(command),
        env=environment | dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
    )
    return RunningSide(process, errors)


def _record(side: Side, one: RunningSide, out: Path) -> RunRecord:
    """What a process that has ended left behind."""
    process = one.process
    with one.errors as file:
        file.seek(0)
        errors = file.read().decode(errors="replace")
    if process.returncode == 130:
        raise KeyboardInterrupt
    said = [line.strip() for line in errors.splitlines() if line.strip()] or ["no message"]
    if process.returncode == UnavailableError.exit_code:
        lost = [line for line in said if line.startswith("lost: ")]
        raise UnavailableError(f"{side.label} cannot be measured here: {(lost or said)[-1].removeprefix('rmeeto-bench: ')}")
    if not (out / MANIFEST).is_file():
        raise MeasurementError(f"{side.label} could not be measured (exit {process.returncode}): {said[-1]}")
    record = load(out)
    ran = str(record.environment.get("git_commit") or "").rstrip("+")
    if side.commit and ran and not side.commit.startswith(ran):
        raise MeasurementError(f"{side.label}: the process measured commit {ran} instead; another rmeeto_bench is on its path")
    return record
