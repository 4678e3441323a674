"""Shared by all tests: the folders of shared modules on the path, Triton's interpreter, one thread a process."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "kernels"))
os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported
# One thread a process: there are as many processes as cores, and threads of OpenMP that wait for each other's core spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each of hundreds of fresh processes compiles the package's sources again
os.environ.setdefault("RMEETO_BENCH_LOCKS", tempfile.mkdtemp(prefix="rmeeto-bench-locks-"))  # no queue behind real runs

from fresh import commands
from made_images import Made, render, write_grey_folders
from programs import BRIEF, Retrained, measure, once, program


@pytest.fixture(scope="session")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    """vim_nano, re-trained for three steps on three classes with pruning at r = 11."""
    flags = ("--device", "cpu", "--workers", "0", "--epochs", "1", "--batch-size", "8", "-r", "11", "--prune")

    def train(place: Path) -> None:
        write_grey_folders(place / "data", {"coat": 4, "bag": 8, "shoe": 9})
        (done,) = commands(["retrain", *flags, "--data", "data", "--out", "checkpoints"], cwd=place)
        assert done.code == 0, done

    place = once(tmp_path_factory, "retrained", train)
    return Retrained(place / "checkpoints", place / "checkpoints" / "vim_nano_r11-prune.safetensors", place / "data", flags)


@pytest.fixture(scope="session")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, for PYTHONPATH, whose --quick takes a second."""
    return once(tmp_path_factory, "brief", lambda folder: program(folder, {"measure/protocol.py": BRIEF}))


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory, brief: Path) -> Path:
    """A folder with pictures, `v`, and the run of two ratios on them, `a`, by processes of its own."""
    return once(tmp_path_factory, "measured", lambda folder: measure(folder, brief))


@pytest.fixture(scope="session")
def made() -> Made:
    """The rendered data set."""
    return render()


FIRST = ("doors", "rehearsal", "packaging")  # minutes each: a process that began one last would keep the other waiting


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((place for place, room in enumerate(FIRST) if room in item.path.parts), len(FIRST)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=1, metavar="TIMES", help="try the kernels on TIMES as many random operands")
