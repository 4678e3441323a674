"""One run per GPU at a time on a machine, and one process per run folder."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench_harness import Heard, controls, fork_and, sim_plan

from rmeeto_bench.bench.run import locks
from rmeeto_bench.bench.run.locks import device_lock, lock_folder
from rmeeto_bench.bench.run.runner import run
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

    class Telling(Heard):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def note(self, text: str) -> None:
            write(f"{self.name} heard {text}")

    def one(name: str) -> None:
        run(sim_plan(preset="quick"), tmp_path / name, controls(lambda _: write(f"{name} session"), tell=Telling(name)))
        write(f"{name} done")

    with device_lock("sim:rtx4090", print, no):
        children = [fork_and(lambda name=name: one(name)) for name in ("a", "b")]
        deadline = time.monotonic() + 60
        while len(log.read_text().splitlines() if log.exists() else []) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        said = log.read_text().splitlines()
        assert sorted(line[:28] for line in said) == [f"{name} heard waiting for sim:rtx4" for name in "ab"]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    order = [line[0] for line in log.read_text().splitlines() if line.endswith(("session", "done"))]
    assert order == sorted(order, key=order.index)  # all of one, then all of the other


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


def as_user(uid: int, work: Callable[[], object]) -> None:
    """Do something in a child that runs as another user; what it asserts must hold."""

    def child() -> None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        os.umask(0o077)
        work()

    assert os.waitpid(fork_and(child), 0)[1] == 0


@pytest.fixture
def sticky() -> Iterator[Path]:
    """A lock folder that all users share, as /run/lock is; outside of pytest's own folders, which are private."""
    if os.getuid() != 0:
        pytest.skip("only root can act as two users")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        os.environ["RMEETO_BENCH_LOCKS"] = name  # the fixture `own_locks` takes it back
        yield Path(name)


def held_by(device: str) -> tuple[bool, list[str]]:
    """Whether the lock of a device is free for this user, and what was said."""
    heard = Heard()
    with device_lock(device, heard.note, lambda: True) as held:
        return held, heard.notes


def expect(device: str, free: bool, *words: str) -> None:
    held, notes = held_by(device)
    assert held == free, (held, notes)
    assert len(notes) == len(words), notes
    assert all(word in note for word, note in zip(words, notes, strict=True)), notes


def test_a_lock_file_that_another_user_left_locks_nobody_out(sticky: Path) -> None:
    as_user(12345, lambda: expect("cuda:e", True))
    (path,) = sticky.iterdir()
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (12345, 0o666)
    as_user(54321, lambda: expect("cuda:e", True))
    path.chmod(0o644)  # as a copy of an older version left it
    as_user(54321, lambda: expect("cuda:e", True))
    with device_lock("cuda:e", print, no):
        as_user(54321, lambda: expect("cuda:e", False, "waiting for cuda:e"))


def test_a_lock_file_that_cannot_be_opened_is_replaced_by_the_users_own(sticky: Path) -> None:
    outside = sticky / "outside"
    outside.touch()
    planted = {name: sticky / f"rmeeto-bench-cuda_{name}.lock" for name in ("unreadable", "link", "pipe", "folder")}
    planted["unreadable"].touch(0o600)
    planted["link"].symlink_to(outside)
    os.mkfifo(planted["pipe"])
    planted["pipe"].chmod(0o666)
    planted["folder"].mkdir()
    for path in planted.values():
        os.chown(path, 54321, 54321, follow_symlinks=False)
    for name in planted:

        def twice(name: str = name) -> None:
            words = ("cannot open the lock", "waiting")
            with device_lock(f"cuda:{name}", lambda _: None, no) as held:
                assert held
                expect(f"cuda:{name}", False, *words)
            expect(f"cuda:{name}", True, words[0])

        as_user(12345, twice)
    assert outside.stat().st_size == 0
    as_user(54321, lambda: expect("cuda:unreadable", True))


def test_a_lock_folder_without_a_way_in_is_said_in_one_line(sticky: Path) -> None:
    sticky.chmod(0o755)

    def refused() -> None:
        with pytest.raises(UnavailableError, match="set RMEETO_BENCH_LOCKS to a folder"):
            held_by("cuda:f")

    as_user(12345, refused)


def test_a_system_without_file_locks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.raises(UnavailableError, match="no file locks"):
        held_by("cuda:g")
