"""Shared by all tests: the folders of shared modules on the path, and Triton's interpreter."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "kernels"))
os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported
os.environ.setdefault("RMEETO_BENCH_LOCKS", tempfile.mkdtemp(prefix="rmeeto-bench-locks-"))  # no queue behind real runs


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=1, metavar="TIMES", help="try the kernels on TIMES as many random operands")
