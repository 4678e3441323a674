"""One run per GPU at a time on a machine, and one process per run folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from bench_harness import Heard, controls, fork_and, sim_plan

from rmeeto_bench.bench.run.locks import device_lock, folder_lock, lock_folder
from rmeeto_bench.bench.run.runner import run
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.errors import UnavailableError


def no() -> bool:
    return False


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMEETO_BENCH_LOCKS", str(tmp_path / "locks"))


def test_two_processes_that_want_the_same_gpu_queue(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def write(text: str) -> None:
        with log.open("a") as file:
            file.write(text + "\n")

    def one(name: str) -> None:
        def before(job: Job) -> None:
            write(f"{name} session")
            time.sleep(0.1)

        listening = controls(before)
        run(sim_plan(preset="quick"), tmp_path / name, listening)
        write(f"{name} heard {listening.listener.notes}")  # type: ignore[attr-defined]

    with device_lock("sim:rtx4090", print, no):  # both must wait, so that both are there
        children = [fork_and(lambda name=name: one(name)) for name in ("a", "b")]
        time.sleep(1.0)
        assert not log.exists()
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    lines = log.read_text().splitlines()
    first = lines[0][0]
    assert lines.index(f"{first} session") < lines.index(next(line for line in lines if line.startswith(f"{first} heard")))
    notes = [line for line in lines if "heard" in line]
    assert len(notes) == 2
    assert all("waiting for sim:rtx4090: another run" in line for line in notes)


def test_a_waiting_run_can_be_stopped_and_says_once_that_it_waits() -> None:
    heard, looks = Heard(), []

    def third_look() -> bool:
        looks.append(1)
        return len(looks) >= 3

    with device_lock("cuda:abc", heard.note, no) as held:
        assert held
        with device_lock("cuda:abc", heard.note, third_look) as second:
            assert not second
    assert heard.notes == ["waiting for cuda:abc: another run of rmeeto-bench on this machine is using it"]


def test_other_gpus_and_the_cpu_do_not_wait() -> None:
    heard = Heard()
    with device_lock("cuda:a", heard.note, no), device_lock("cuda:b", heard.note, no) as second:
        assert second
    with device_lock("cpu", heard.note, no), device_lock("cpu", heard.note, no) as second:
        assert second
    assert not heard.notes


def test_the_lock_of_a_killed_process_is_free() -> None:
    def hold() -> None:
        lock = device_lock("cuda:c", print, no)
        lock.__enter__()
        os.kill(os.getpid(), 9)

    os.waitpid(fork_and(hold), 0)
    with device_lock("cuda:c", print, lambda: True) as held:
        assert held


def test_a_lock_file_is_for_every_user() -> None:
    with device_lock("cuda:d", print, no):
        (path,) = lock_folder().glob("*cuda_d*")
        assert path.stat().st_mode & 0o777 == 0o666


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run"), pytest.raises(UnavailableError, match="another process is working on"):
        run(sim_plan(), tmp_path / "run", controls())
