"""The processes that decode: in order, alone with their sockets, and never waited for in vain."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rmeeto_bench.data import readers
from rmeeto_bench.data.readers import in_order
from rmeeto_bench.errors import DataError, UnavailableError

OPEN = Path("/proc/self/fd")


def sockets(_: object = None) -> set[str]:
    """The sockets that this process has open."""
    return {name for link in OPEN.iterdir() if link.exists() and (name := os.readlink(link)).startswith("socket:")}


def children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def striking(number: int) -> Callable[[int], int]:
    """Work during whose fourth task the process sends itself a signal."""

    def work(task: int) -> int:
        if task == 3:
            os.kill(os.getpid(), number)
        return task

    return work


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_come_in_the_order_of_the_tasks_and_no_process_is_left(count: int) -> None:
    before = children()
    found = list(in_order(lambda task: (os.getpid(), torch.full((2, 3), task), np.arange(task)), range(7), count))
    assert [int(pixels[1, 2]) for _, pixels, _ in found] == list(range(7))
    assert [len(array) for _, _, array in found] == list(range(7))
    assert len({pid for pid, _, _ in found} - {os.getpid()}) == count
    assert children() == before


@pytest.mark.skipif(not OPEN.exists(), reason="needs /proc")
def test_a_reader_holds_no_socket_of_another() -> None:
    before = sockets()
    held = [found - before for found in in_order(sockets, range(4), 4)]
    assert [len(found) for found in held] == [1, 1, 1, 1]
    assert len(set.union(*held)) == 4


def test_a_reader_that_is_killed_is_named_at_once_whichever_it_is() -> None:
    before = children()
    with pytest.raises(UnavailableError, match="was ended by SIGKILL, .* --resume and fewer workers"):
        list(in_order(striking(signal.SIGKILL), range(8), 4))
    assert children() == before


def test_a_reader_that_stands_still_is_ended_and_one_that_computes_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "POLL", 0.1)
    monkeypatch.setattr(readers, "SILENT", 1.5)
    before = children()
    with pytest.raises(UnavailableError, match="did nothing for 0 min; look at the disk"):
        list(in_order(striking(signal.SIGSTOP), range(8), 2))
    assert children() == before

    def compute(task: int) -> int:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            pass
        return task

    assert list(in_order(compute, range(1), 1)) == [0]


def test_an_error_of_the_work_comes_out_as_it_is_and_another_names_the_process(capfd: pytest.CaptureFixture) -> None:
    def refuse(task: int) -> int:
        raise DataError(f"image {task} is damaged") if task else ValueError("a fault of ours")

    with pytest.raises(DataError, match="image 1 is damaged"):
        list(in_order(refuse, [1, 2], 2))
    with pytest.raises(UnavailableError, match="ended with code 1"):
        list(in_order(refuse, [0, 0], 2))
    assert "ValueError: a fault of ours" in capfd.readouterr().err
