"""Two processes take turns, block by block; whoever is gone keeps nobody waiting."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmeeto_bench.compare.turn_server import Turnstile
from rmeeto_bench.measure.devices.simulated import SimDevice
from rmeeto_bench.measure.protocol import QUICK, Watch
from rmeeto_bench.measure.rounds import TimedArm, measure
from rmeeto_bench.measure.turns import DONE, GO, VARIABLE, Turns
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.records.run import Block

SIDES = ("base", "head")


@pytest.fixture
def turnstile() -> Iterator[Turnstile]:
    made = Turnstile(SIDES)
    yield made
    made.close()


def join(turnstile: Turnstile, name: str, monkeypatch: pytest.MonkeyPatch) -> Turns:
    monkeypatch.setenv(VARIABLE, turnstile.variable(name))
    return Turns.join()


def run(works: dict[str, object]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works.values()]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a deadlock"


def test_a_start_sweeps_what_killed_processes_left_and_nothing_that_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = f"from rmeeto_bench.compare.turn_server import Turnstile; Turnstile({SIDES}); print(flush=True); input()"
    killed, alive = (
        subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, env={**os.environ, "TMPDIR": str(tmp_path)})
        for _ in range(2)
    )
    try:
        for process in (killed, alive):
            assert process.stdout is not None
            process.stdout.readline()
        assert len(list(tmp_path.glob("*/turns"))) == 2
        killed.kill()
        killed.wait()
        Turnstile(SIDES).close()
        assert len(list(tmp_path.iterdir())) == 1
        alive.communicate(b"\n")  # it still runs
        assert alive.returncode == 0
    finally:
        alive.kill()


def test_without_a_referee_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    turns = Turns.join()
    assert turns.wait() == 0.0
    turns.leave()
    monkeypatch.setenv(VARIABLE, "/nowhere/turns:base")
    assert Turns.join().wait() == 0.0


def test_blocks_alternate_and_the_longer_side_ends_alone(turnstile: Turnstile, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    def side(name: str, turns: Turns, blocks: int) -> None:
        for _ in range(blocks):
            turns.wait()
            log.append(name)
        turns.leave()
        log.append(f"{name} left")

    sides = {name: join(turnstile, name, monkeypatch) for name in SIDES}
    run({name: lambda n=name, b=blocks: side(n, sides[n], b) for name, blocks in zip(SIDES, (3, 5))})
    assert log[:8] == ["base", "head"] * 3 + ["head", "head"]
    assert set(log[8:]) == {"base left", "head left"}, "who is done first waits for the other"


def test_a_second_session_waits_for_the_other_sides_second(turnstile: Turnstile, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    first = {name: join(turnstile, name, monkeypatch) for name in SIDES}
    second: dict[str, Turns] = {}
    arrive = threading.Event()

    def base() -> None:
        first["base"].wait()
        first["base"].leave()
        second["base"] = join(turnstile, "base", monkeypatch)
        arrive.set()
        second["base"].wait()
        log.append("base")
        second["base"].leave()

    def head() -> None:
        first["head"].wait()
        first["head"].leave()
        arrive.wait(10)
        log.append("head arrives")
        second["head"] = join(turnstile, "head", monkeypatch)
        second["head"].wait()
        log.append("head")
        second["head"].leave()

    run({"base": base, "head": head})
    assert log == ["head arrives", "base", "head"]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_link_that_closes_late_does_not_end_the_next_session(turnstile: Turnstile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may see that a process is gone after the side's next one has asked for its turn."""
    late = socket.socket(socket.AF_UNIX)
    late.connect(turnstile.variable("head").rpartition(":")[0])
    late.sendall(b"head\n" + DONE)
    join(turnstile, "base", monkeypatch).leave()
    assert late.recv(1) == GO
    second = join(turnstile, "head", monkeypatch)
    log: list[str] = []

    def side(name: str, turns: Turns) -> None:
        turns.wait()
        log.append(name)
        turns.leave()

    asking = threading.Thread(target=side, args=("head", second))
    asking.start()
    time.sleep(0.2)  # until it waits
    late.close()
    time.sleep(0.2)  # until that is seen
    side("base", join(turnstile, "base", monkeypatch))
    asking.join(10)
    assert sorted(log) == ["base", "head"]


def test_who_dies_or_never_comes_keeps_nobody_waiting(turnstile: Turnstile, monkeypatch: pytest.MonkeyPatch) -> None:
    base = join(turnstile, "base", monkeypatch)
    monkeypatch.setenv(VARIABLE, turnstile.variable("head"))
    script = "from rmeeto_bench.measure.turns import Turns; t = Turns.join(); t.wait(); import os; os.kill(os.getpid(), 9)"
    process = subprocess.Popen([sys.executable, "-c", script])

    def go() -> None:
        for _ in range(3):
            base.wait()
        base.leave()

    watcher = threading.Thread(target=lambda: (process.wait(), turnstile.ended("head")), daemon=True)
    watcher.start()
    run({"base": go})
    assert process.wait() == -9


def test_a_referee_that_is_gone_lets_everybody_go(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Turnstile(SIDES)
    base = join(made, "base", monkeypatch)
    threading.Timer(0.2, made.close).start()
    run({"base": lambda: (base.wait(), base.wait(), base.leave())})


def test_measuring_takes_turns_by_blocks(turnstile: Turnstile, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = next(profile for profile in load_profiles() if profile.name == "rtx4090")
    log: list[tuple[str, str]] = []
    joined = {name: join(turnstile, name, monkeypatch) for name in SIDES}
    monkeypatch.setattr(Turns, "join", lambda: joined[threading.current_thread().name])

    def side(name: str) -> None:
        device = SimDevice(profile, seed=0)
        arms = [TimedArm(arm, device.step(arm, 0.1), 32) for arm in ("a/r0", "a/r20")]

        def keep(block: Block) -> None:
            log.append((name, block.arm))

        measure(device, arms, "a/r0", QUICK, Watch(keep))

    threads = [threading.Thread(target=side, args=(name,), name=name, daemon=True) for name in SIDES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert [name for name, _ in log] == ["base", "head"] * (len(log) // 2)
    assert [arm for name, arm in log if name == "base"] == [arm for name, arm in log if name == "head"]
    assert len(log) >= 4 * QUICK.min_rounds
