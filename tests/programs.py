"""Copies of the program with lines of a test's own, and what it wrote, made once for all processes of the tests."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from fresh import PLAIN, start
from PIL import Image

import rmeeto_bench
from rmeeto_bench.data.layouts import fashion_mnist

SOURCE = Path(rmeeto_bench.__file__).parents[1]
# --quick is over in seconds: what a run does is the same, and how well it measures is asked elsewhere.
BRIEF = """
QUICK = PRESETS["quick"] = TimingProtocol("quick", 0.05, 1, 6, 6, 0.1, 0.5, 35.0, 2, max_rejected=4, reject=(THROTTLED,))
"""


class Retrained(NamedTuple):
    """What `retrain` wrote in a process of its own, for tests that only read it."""

    # The folder of checkpoints.
    folder: Path
    # The file of the pruning at r = 11.
    file: Path
    # The data, with train/ and val/ of three classes.
    data: Path
    # The flags of the training, --data and --out left out.
    flags: tuple[str, ...]


def program(folder: Path, changes: Mapping[str, str]) -> None:
    """A copy of the program in which more lines end these files."""
    shutil.copytree(SOURCE / "rmeeto_bench", folder / "rmeeto_bench")
    for data in ("profiles", "results"):
        (folder / data).symlink_to(SOURCE / data)
    for path, lines in changes.items():
        with (folder / "rmeeto_bench" / path).open("a", encoding="utf-8") as file:
            file.write(lines)


def write_pictures(folder: Path, count: int) -> None:
    """Images of Fashion-MNIST, every class among them, in a folder per class."""
    data = fashion_mnist.load("test").subset(count)
    for i in range(count):
        place = folder / str(int(data.labels[i]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.pixels[i, 0].numpy()).save(place / f"i{i:04d}.png")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, once for all processes of the tests; who changes it copies it."""
    root = factory.getbasetemp()
    shared = root.parent / name if "PYTEST_XDIST_WORKER" in os.environ else root / name
    with shared.with_suffix(".lock").open("a+", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not lock.read():
            shutil.rmtree(shared, ignore_errors=True)  # what was begun and failed
            shared.mkdir()
            make(shared)
            lock.write("made")
    return shared


def measure(folder: Path, brief: Path) -> None:
    """The run `a` of two ratios on the 100 pictures in `v`, as typed."""
    write_pictures(folder / "v", 100)
    words = "--gpus none --quick --r 0,20 --batch-size 8 --data v --out a"
    done = start(words.split(), folder, {**os.environ, **PLAIN, "PYTHONPATH": str(brief)})
    assert done.code == 0, done


def copied(measured: Path, place: Path) -> Path:
    """Pictures and run again, as if they had been made there."""
    shutil.copytree(measured, place)
    manifest = place / "a" / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(str(measured), str(place)), encoding="utf-8")
    return place
