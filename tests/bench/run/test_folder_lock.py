"""One process per run folder: on this machine, and on others that share its disk; and a journal that such a disk can bear."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from bench_harness import Heard, controls, fork_and, sim_plan
from fresh import commands

from rmeeto_bench.bench.run import folder_lock as locking
from rmeeto_bench.bench.run.folder_lock import NAME, folder_lock
from rmeeto_bench.bench.run.runner import resume, run
from rmeeto_bench.bench.store import journal
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.errors import UnavailableError
from rmeeto_bench.records.run import DATABASE

BUSY = "another process is working on"


def refuse_locks(descriptor: int, how: int) -> None:
    raise OSError(95, "Operation not supported")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(locking, "BEAT", 0.05)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background work ignores it
    yield
    signal.signal(signal.SIGINT, before)


def test_a_folder_belongs_to_one_process_and_the_other_is_told_which(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with folder_lock(folder):
        with pytest.raises(UnavailableError, match=BUSY):
            run(sim_plan(), folder, controls())

        def other() -> None:
            with pytest.raises(UnavailableError, match=rf"{BUSY} .*\(process {os.getppid()} on "), folder_lock(folder):
                pass

        assert os.waitpid(fork_and(other), 0)[1] == 0
    assert not folder.exists()


def test_two_commands_on_one_folder_the_second_exits_6(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with folder_lock(out):
        (done,) = commands(["eval", "--gpus", "none", "--r", "0", "--images", "40", "--out", out], cwd=tmp_path)
    assert done.code == 6
    assert done.err.splitlines()[-1].startswith(f"rmeeto-bench: {BUSY} {out} (process {os.getpid()} on ")


def test_the_folder_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    def hold() -> None:
        lock = folder_lock(tmp_path)
        lock.__enter__()
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(fork_and(hold), 0)
    assert (tmp_path / NAME).exists()
    heard = Heard()
    with folder_lock(tmp_path, heard.note):
        assert not heard.notes
    assert not (tmp_path / NAME).exists()


@pytest.mark.usefixtures("fast")
def test_a_claim_of_another_machine_counts_until_it_misses_its_beats(tmp_path: Path) -> None:
    path, heard = tmp_path / NAME, Heard()
    claim = {"host": "elsewhere", "machine": "another boot", "pid": 7, "token": "x"}
    path.write_text(json.dumps(claim), encoding="utf-8")
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            os.utime(path)

    living = threading.Thread(target=beat)
    living.start()
    with pytest.raises(UnavailableError, match=rf"{BUSY} .*\(process 7 on elsewhere\)"), folder_lock(tmp_path):
        pass
    ended.set()
    living.join()
    with folder_lock(tmp_path, heard.note):
        assert json.loads(path.read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert len(heard.notes) == 1
    assert "elsewhere worked on" in heard.notes[0]


@pytest.mark.usefixtures("fast")
def test_the_holder_touches_its_claim_and_gives_up_one_that_was_taken_over(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path):
        before = path.stat().st_mtime_ns
        deadline = time.monotonic() + 30
        while path.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime_ns != before
        path.write_text(json.dumps({"host": "elsewhere", "machine": "another boot", "pid": 7}), encoding="utf-8")
        while time.monotonic() < deadline + 30:
            time.sleep(0.01)  # a long sleep would end first
    assert json.loads(path.read_text(encoding="utf-8"))["host"] == "elsewhere"  # the lock file is the other's now


@pytest.mark.usefixtures("fast")
def test_where_the_disk_has_no_locks_a_dead_process_is_known_by_its_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "lockf", refuse_locks)
    path, heard = tmp_path / NAME, Heard()
    dead = fork_and(lambda: None)
    os.waitpid(dead, 0)
    path.write_text(json.dumps({"host": "here", "machine": locking._machine(), "pid": dead}), encoding="utf-8")
    with folder_lock(tmp_path, heard.note):
        assert not heard.notes

        def other() -> None:
            with pytest.raises(UnavailableError, match=BUSY), folder_lock(tmp_path):
                pass

        assert os.waitpid(fork_and(other), 0)[1] == 0


def test_a_run_on_a_network_disk_keeps_a_rollback_journal_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    shared = tmp_path / "a shared disk"
    shared.mkdir()
    place = str(shared).replace(" ", "\\040")
    mounts.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {place} rw shared:1 - nfs4 server:/x rw\n")
    monkeypatch.setattr(journal, "MOUNTS", mounts)
    here, there = controls(), controls()
    run(sim_plan(preset="quick"), tmp_path / "run", here)
    run(sim_plan(preset="quick"), shared / "run", there)
    assert not [note for note in here.tell.notes if "journal" in note]  # type: ignore[attr-defined]
    assert [note for note in there.tell.notes if "network disk (nfs4)" in note] == [  # type: ignore[attr-defined]
        f"{shared / 'run'} is on a network disk (nfs4): the run is stored with a rollback journal"
    ]
    for folder, mode in ((tmp_path / "run", "wal"), (shared / "run", "delete")):
        with closing(sqlite3.connect(folder / DATABASE)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == (mode,)
    (tmp_path / "run").rename(shared / "moved")
    again = controls()
    assert resume(shared / "moved", again).status == "complete"
    with closing(sqlite3.connect(shared / "moved" / DATABASE)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_disk_without_shared_memory_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / f"{DATABASE}-shm").mkdir()  # as where the log's shared memory cannot be made
    with Store.create(tmp_path) as store:
        assert "rollback journal" in store.note
        store.begin_session("cpu", "vim_nano", "timing", {})
    with Store.open(tmp_path) as store:
        assert len(store.sessions("cpu")) == 1


@pytest.mark.parametrize(
    ("kind", "expected"), [("nfs4", True), ("fuse.sshfs", True), ("fuse.fuse-overlayfs", False), ("ext4", False)]
)
def test_kinds_of_disks(kind: str, expected: bool) -> None:
    assert journal.is_network(kind) == expected


def test_the_kind_of_a_real_disk_is_found() -> None:
    assert not Path("/proc/self/mountinfo").exists() or journal.disk_of(Path("/proc")) == "proc"
