"""A folder in which commands run in fresh processes on what other commands wrote, each once a session of tests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

import rmeeto_bench
from rmeeto_bench.checkpoints.catalogue import BUNDLED
from rmeeto_bench.data.layouts import fashion_mnist

SOURCE = Path(rmeeto_bench.__file__).parents[1]
NAMES = [f"kind-{letter}" for letter in "jihgfedcba"]  # of the ten classes: the alphabet would number them backwards
PLACE = re.compile(r"\{(\w+)(?::(\w+))?\}")
MINE = """import torch


def constant():
    return lambda images: torch.eye(10)[torch.zeros(len(images), dtype=int)]
"""
SLOW = """

def _slow(self, images, _forward=Vim.forward):
    import time

    start = time.perf_counter()
    logits = _forward(self, images)
    time.sleep(1.5 * (time.perf_counter() - start))
    return logits


Vim.forward = _slow
"""


@dataclass(frozen=True)
class Done:
    """A command that has ended, and the folder it ran in."""

    row: Row
    code: int
    out: str
    err: str
    world: World

    def text(self, path: str) -> str:
        return (self.world.root / path).read_text(encoding="utf-8")

    def json(self, path: str = "") -> Any:
        """Of a file, or of standard output."""
        return json.loads(self.text(path) if path else self.out)

    def plan(self, run: str) -> dict[str, Any]:
        return self.json(f"{run}/manifest.json")["plan"]

    def arms(self, run: str) -> list[dict[str, Any]]:
        return self.json(f"{run}/manifest.json")["arms"]

    def log(self, stem: str) -> list[dict[str, Any]]:
        """What a training wrote down: what it was, its steps, its end."""
        return [json.loads(line) for line in self.text(f"{stem}.jsonl").splitlines()]

    def one(self, folder: str, ending: str) -> str:
        """The path without ending of the only file there with it."""
        (name,) = (name for name in self.files(folder) if name.endswith(ending))
        return f"{folder}/{name.removesuffix(ending)}"

    def task(self, folder: str) -> dict[str, Any]:
        """The plan of a fleet's only task."""
        (task,) = self.json(f"{folder}/fleet.json")["tasks"]
        return task["plan"]

    def told(self, run: str) -> str:
        """The words that a run was started with."""
        return " ".join(self.json(f"{run}/manifest.json")["argv"])

    def rows(self, folder: str, query: str) -> list[tuple[Any, ...]]:
        """Of the database there."""
        with closing(sqlite3.connect(self.world.root / folder / "run.sqlite")) as connection:
            return connection.execute(query).fetchall()

    def svg_width(self, path: str) -> str:
        found = re.search(r'<svg [^>]*width="([^"]+)"', self.text(path))
        return found[1] if found else "none"

    def tensors(self, path: str) -> list[Any]:
        return list(load_file(self.world.root / path).values())

    def sha256(self, path: str) -> str:
        return hashlib.sha256((self.world.root / path).read_bytes()).hexdigest()

    def width(self, path: str) -> int:
        """Of a picture."""
        with Image.open(self.world.root / path) as image:
            return image.width

    def files(self, folder: str) -> set[str]:
        return {path.name for path in (self.world.root / folder).iterdir()}

    def says(self, pattern: str) -> bool:
        """Whether standard output, its lines joined, holds it."""
        return re.search(pattern, re.sub(r"\s+", " ", self.out)) is not None

    def warns(self, pattern: str) -> bool:
        """The same of standard error."""
        return re.search(pattern, re.sub(r"\s+", " ", self.err)) is not None

    def before(self, name: str) -> Done:
        """Another row's command, which this one needs."""
        return self.world.done(name)


Check = Callable[[Done], object]


@dataclass(frozen=True)
class Row:
    """One command line and what each of its flags must have changed.

    `line`: words; {bundled} is the folder of the weights that ship, {source} that of the program, {id:a} the run in `a`.
    `shows`: flag or positional argument -> a check of its result. `code`: the exit code. `needs`: names of rows before it.
    `says`: what standard output holds, for a command without flags.
    `refusal`: what the one line on standard error says where the command is refused.
    `prepare`: what is done before, in the folder; what it yields are more variables of the environment.
    """

    name: str
    line: str
    shows: Mapping[str, Check]
    code: int = 0
    says: str = ""
    refusal: str = ""
    needs: tuple[str, ...] = ()
    prepare: Callable[[Path], Iterator[Mapping[str, str]]] | None = None

    @property
    def command(self) -> str:
        from rmeeto_bench.cli.main import COMMANDS

        first = self.line.split()[0]
        return first if first in COMMANDS else "run"


@dataclass
class World:
    """Runs rows, each once, after those that it needs."""

    root: Path
    rows: Mapping[str, Row]
    known: dict[str, Done] = field(default_factory=dict)

    def done(self, name: str) -> Done:
        """What the row's command did. A command that it needs and that fails is named by the failure."""
        if name not in self.known:
            row = self.rows[name]
            for need in row.needs:
                before = self.done(need)
                assert before.code == before.row.code, f"row {need}, which {name} needs, ended with {before.code}: {before.err}"
            self.known[name] = self._run(row)
        return self.known[name]

    def _run(self, row: Row) -> Done:
        steps = row.prepare(self.root) if row.prepare else iter([{}])
        more = next(steps)
        done = self.start(self.words(row), more)
        for _ in steps:
            pass  # what it does afterwards
        return Done(row, done.returncode, done.stdout, done.stderr, self)

    def start(self, words: Sequence[str], more: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """A command in a fresh process."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "rmeeto_bench", *words],
            cwd=self.root,
            env={**self.variables, **more},
            capture_output=True,
            text=True,
            check=False,
        )

    @cached_property
    def variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "COV_", "PYTEST"))}
        own = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(SOURCE)}
        return {**kept, **own, "HF_HOME": str(self.root / "hub")}

    def words(self, row: Row) -> list[str]:
        def value(found: re.Match[str]) -> str:
            kind, name = found.groups()
            if kind == "id":
                return str(json.loads((self.root / name / "manifest.json").read_text(encoding="utf-8"))["run_id"])
            return str({"bundled": BUNDLED, "source": SOURCE}[kind])

        return [PLACE.sub(value, word) for word in shlex.split(row.line)]


def furnish(root: Path) -> None:
    """What people bring: class folders `v`, a flat folder `flat` with a list, each with a file that is no image; a class
    map; training files `fm`; a plan of a fleet; and a program `slow` that takes longer."""
    data = fashion_mnist.load("test").subset(20)  # every class is there
    listed = []
    for i in range(20):
        name = NAMES[int(data.labels[i])]
        image = Image.fromarray(data.pixels[i, 0].numpy())
        for place in (root / "v" / name, root / "flat"):
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"i{i:02d}.png")
        listed.append(f"i{i:02d}.png {name}")
    (root / "v" / NAMES[0] / "odd.png").write_bytes(b"no image")
    (root / "flat" / "odd.png").write_bytes(b"no image")
    (root / "listed.txt").write_text("\n".join([*listed, f"odd.png {NAMES[0]}"]) + "\n", encoding="utf-8")
    (root / "map.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    state = load_file(BUNDLED / "vim_nano_r0.safetensors")
    torch.save({"model": state, "model_ema": {name: value.clone() for name, value in state.items()}}, root / "averaged.pth")
    (root / "plan.toml").write_text('quick = true\nmodel = "vim_nano"\nclass-map = "map.txt"\nr = [0]\n', encoding="utf-8")
    (root / "mine.py").write_text(MINE, encoding="utf-8")
    _training(root / "fm", 16, 10)
    for part in ("train", "val"):
        for label in range(2):
            place = root / "folders" / part / f"class{label}"
            place.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (28, 28), (60 + 90 * label + 7 * i,) * 3).save(place / f"{i}.png")
    (root / "folders" / "train" / "class0" / "odd.png").write_bytes(b"no image")


def _training(folder: Path, training: int, test: int) -> None:
    """Fashion-MNIST's own files, with a few of the images that ship."""
    every = fashion_mnist.load("test")
    folder.mkdir()
    for prefix, part in (("train", slice(0, training)), ("t10k", slice(training, training + test))):
        images, labels = every.pixels[part, 0].numpy(), every.labels[part].numpy().astype("u1")
        for kind, code, values in (("images-idx3", 3, images), ("labels-idx1", 1, labels)):
            head = bytes([0, 0, 8, code]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(head + values.tobytes())
