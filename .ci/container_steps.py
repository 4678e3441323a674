"""Executes the steps of a Dockerfile stage in a clean virtual environment, where no container engine is at hand.

    python .ci/container_steps.py cpu            # as the Dockerfile has it: every package anew from the lock, minutes
    python .ci/container_steps.py cpu --borrow   # packages of this environment instead: checks the steps, not the lock

RUN lines that pip, python or rmeeto-bench carry out are executed as they stand, with COPY into an empty folder, the stage's
ARGs and its parent stages; what needs root (apt-get, useradd) is only printed. Ends with the image's entry point.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDS_ROOT = ("apt-get", "useradd", "install ", "rm -rf /var", "chmod")


@dataclass
class Stage:
    """One FROM with its instructions, continued lines joined."""

    name: str
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def parse(text: str) -> dict[str, Stage]:
    """Stages by name. Comments are dropped, also those between continued lines."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            current = stages[name or parent] = Stage(name or parent, parent)
        elif current is not None:
            current.steps.append((word, rest.strip()))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage after the stages it is built on."""
    found: list[Stage] = []
    while name in stages:
        found.insert(0, stages[name])
        name = stages[name].parent
    return found


class Room:
    """A folder that stands for the image's root, and a virtual environment that stands for its Python."""

    def __init__(self, folder: Path, *, borrow: bool) -> None:
        self.root, self.borrow = folder / "root", borrow
        self.root.mkdir()
        self.venv = folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(self.venv)], check=True)
        if borrow:
            own = Path(sysconfig.get_path("purelib", vars={"base": str(self.venv)}))
            paths = [path for path in sys.path if "site-packages" in path]
            (own / "borrowed.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            "PATH": f"{self.venv}/bin:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(self.venv),
        }
        self.arguments: dict[str, str] = {}
        self.cwd = self.root

    def at(self, path: str) -> Path:
        """Where a path of the image is here."""
        return self.root / path.lstrip("/") if path.startswith("/") else self.cwd / path

    def copy(self, rest: str, others: dict[str, Room]) -> None:
        """COPY, from the checkout or from another stage."""
        words = [word for word in rest.split() if not word.startswith("--")]
        stage = re.search(r"--from=(\S+)", rest)
        base = others[stage.group(1)].root if stage else ROOT
        *sources, target = words
        for source in sources:
            given = base / source.lstrip("/")
            into = self.at(target)
            place = (
                into / given.name if target.endswith("/") or len(sources) > 1 or (given.is_file() and into.is_dir()) else into
            )
            place.parent.mkdir(parents=True, exist_ok=True)
            if given.is_dir():
                shutil.copytree(
                    given, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "_version.py", "*.so")
                )
            else:
                shutil.copyfile(given, place)

    def run(self, rest: str) -> None:
        """RUN, part by part; parts for root are printed."""
        for part in (part.strip() for part in rest.split("&&")):
            if part.startswith(NEEDS_ROOT):
                print(f"  (root) {part}")
                continue
            if self.borrow and re.search(r"pip install .*-r ", part):
                print(f"  (borrowed) {part}")
                continue
            command = re.sub(r"(?<![\w.=-])(/(?:locks|dist|mamba|src)\b)", lambda m: str(self.root) + m.group(1), part)
            print(f"  {command}", flush=True)
            subprocess.run(["bash", "-euc", command], cwd=self.cwd, env={**self.environment, **self.arguments}, check=True)

    def step(self, word: str, rest: str, others: dict[str, Room]) -> None:
        """One instruction."""
        if word == "COPY":
            self.copy(rest, others)
        elif word == "RUN":
            self.run(rest)
        elif word == "WORKDIR":
            self.cwd = self.at(rest)
            self.cwd.mkdir(parents=True, exist_ok=True)
        elif word == "ARG":
            name, _, default = rest.partition("=")
            self.arguments[name] = os.environ.get(name, default.strip('"'))
        elif word == "ENV":
            self.environment |= dict(item.split("=", 1) for item in shlex.split(rest))


def main() -> int:
    """Build what the stage copies from, then the stage, then start it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage")
    parser.add_argument("--borrow", action="store_true", help="use this environment's packages")
    parser.add_argument("--words", default="--version", help="what to start the image with (default: --version)")
    arguments = parser.parse_args()
    stages = parse((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        rooms: dict[str, Room] = {}
        for name in ("wheel", arguments.stage):
            (Path(scratch) / name).mkdir()
            room = rooms[name] = Room(Path(scratch) / name, borrow=arguments.borrow)
            for stage in lineage(stages, name):
                print(f"{stage.name}:")
                for word, rest in stage.steps:
                    room.step(word, rest, rooms)
        entry = [*shlex.split(" ".join(["rmeeto-bench", arguments.words]))]
        print(f"start: {' '.join(entry)}", flush=True)
        room = rooms[arguments.stage]
        return subprocess.run(entry, cwd=room.cwd, env=room.environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
