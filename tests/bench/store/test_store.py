"""The run store keeps what it was given, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from datetime import datetime, tzinfo
from pathlib import Path

import numpy as np
import pytest

from rmeeto_bench.bench.store.predictions import Chunk, Evaluated, Predictions
from rmeeto_bench.bench.store.store import Probe, Store
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.errors import DataError, UnavailableError
from rmeeto_bench.measure.statistics import complete_rounds
from rmeeto_bench.records.run import DATABASE, Block


def block(round_: int, arm: str, seconds: float = 1.0, reason: str | None = None, session: int = 0) -> Block:
    return Block("cpu", session, round_, 0, arm, 4, 40, seconds, seconds, reason, {"mhz": 1500})


def test_blocks_come_back_as_they_went_in(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        store.add_block(block(0, "a"))
    with Store.open(tmp_path) as store:
        assert store.blocks("cpu") == [block(0, "a")]
        assert store.blocks("cuda:0") == []


def test_only_complete_unrejected_rounds_count(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        for item in (block(0, "a", 4.0), block(0, "b", 2.0), block(1, "a"), block(1, "b", reason="throttled"), block(2, "a")):
            store.add_block(item)
        assert complete_rounds(store.blocks("cpu"), ["a", "b"]) == [{"a": [0.1], "b": [0.05]}]


def test_predictions_come_back_in_the_order_of_the_images(tmp_path: Path) -> None:
    data = fashion_mnist.load("test").subset(8)
    with Store.create(tmp_path) as store:
        kept = Predictions(store, "cpu")
        kept.begin(data, {"a": {}})
        for start, count in ((0, 2), (5, 3), (2, 3)):
            best, labels = np.full((count, 5), start, np.int16), data.labels[start : start + count].numpy()
            kept.add(data, Chunk(start, labels, {"a": best}, {"a": np.ones(count, np.float16)}))
        assert kept.results(["a"]).best["a"][:, 0].tolist() == [0, 0, 2, 2, 2, 5, 5, 5]
        assert kept.results(["a"]).labels.tolist() == data.labels.tolist()
        assert kept.results(["a"], [5]).labels.tolist() == data.labels[5:].tolist()
        assert len(kept.results(["a", "b"]).labels) == 0  # no image that both have seen
        assert kept.evaluated("a") == Evaluated(data.name, data.fingerprint, 8, 10)


def test_a_second_run_never_overwrites_a_first(tmp_path: Path) -> None:
    Store.create(tmp_path).close()
    with pytest.raises(DataError, match="already holds a run"):
        Store.create(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a database at all, but long enough to look at" * 40])
def test_a_foreign_or_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(content)
    with pytest.raises(DataError, match=DATABASE):
        Store.open(tmp_path)


def test_a_missing_or_newer_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the folder of a run"):
        Store.open(tmp_path)
    store = Store.create(tmp_path)
    store.close()
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(DataError, match="upgrade"):
        Store.open(tmp_path)


def test_a_full_disk_is_one_line_and_keeps_what_was_measured(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        store.add_block(block(0, "a"))
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(UnavailableError, match="free some disk space"):
            for number in range(1, 500):
                store.add_block(block(number, "a" * 200))
        assert store.blocks("cpu")[0] == block(0, "a")


def test_a_killed_process_loses_nothing_it_had_stored(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from rmeeto_bench.bench.store.store import Store
        from rmeeto_bench.records.run import Block
        store = Store.create(Path(sys.argv[1]))
        for number in range(10_000):
            store.add_block(Block("cpu", 0, number, 0, "a", 1, 1, 1.0, 1.0))
            print(number, flush=True)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True) as child:
        last = [int(child.stdout.readline()) for _ in range(25)][-1]
        os.kill(child.pid, signal.SIGKILL)
    with Store.open(tmp_path / "run") as store:
        stored = [item.round for item in store.blocks("cpu")]
    assert stored[: last + 1] == list(range(last + 1))


def test_sessions_are_numbered_once_per_device(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        assert [store.begin_session("cpu", "m", "timing", {"driver": "1"}) for _ in range(2)] == [0, 1]
        assert store.begin_session("cuda:a", "m", "timing", {}) == 0
        store.end_session("cpu", 0, "done", {"rounds": {"rounds": 3}})
        assert store.lose_sessions("cpu") == 1
        first, second = store.sessions("cpu", "m", "timing")
        assert (first.status, first.result, first.environment) == ("done", {"rounds": {"rounds": 3}}, {"driver": "1"})
        assert (second.status, second.result) == ("lost", {})
        assert second.ended is not None
        assert store.sessions("cuda:a")[0].status == "running"
        assert store.sessions("cpu", "m", "accuracy") == store.sessions("cpu", "other") == []


def test_what_a_session_found_out_comes_back(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        store.add_facts("cpu", 0, "a", {"backend": "native"})
        store.add_facts("cpu", 0, "a", {"backend": "chunked"})
        store.add_probe("cpu", 0, "a", Probe((3, 1, 999), "ab"))
        store.add_latencies("cpu", 0, "a", [0.5, 0.25])
        assert store.facts("cpu", 0) == {"a": {"backend": "chunked"}}
        assert store.probes("cpu", 0) == {"a": Probe((3, 1, 999), "ab")}
        assert store.latencies("cpu", 0)["a"].tolist() == [0.5, 0.25]


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    Store.create(tmp_path).close()
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from rmeeto_bench.bench.store.store import Store
        from rmeeto_bench.records.run import Block
        with Store.open(Path(sys.argv[1])) as store:
            for number in range(40):
                store.add_block(Block(sys.argv[2], 0, number, 0, "a", 1, 1, 1.0, 1.0))
        """
    )
    children = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in ("x", "y")]
    assert [child.wait() for child in children] == [0, 0]
    with Store.open(tmp_path) as store:
        assert store.count() == 80


def test_a_run_of_another_layout_is_refused_with_what_to_do(tmp_path: Path) -> None:
    Store.create(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("PRAGMA user_version=1")
    for opening in (Store.open, lambda folder: Store.create(folder, resume=True)):
        with pytest.raises(DataError, match="rerun"):
            opening(tmp_path)


def test_a_database_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / DATABASE).close()
    (tmp_path / DATABASE).touch()
    with Store.create(tmp_path, resume=True) as store:
        store.add_block(block(0, "a"))
        assert store.count() == 1


def test_work_counts_until_now_and_a_pause_undoes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shares of one pass are one stretch of time, and what was lost or came before a pause warms nothing."""
    with Store.create(tmp_path) as store:
        assert store.worked("cpu") == 0
        for number, (started, ended, status) in enumerate(
            [(0, 500, "done"), (600, 640, "done"), (600, 642, "share"), (645, 700, "stopped"), (702, 708, "lost")]
        ):
            store.begin_session("cpu", "vim_nano", "timing", {})
            store.end_session("cpu", number, status, {})
            times = [f"2026-01-01T{at // 3600:02}:{at % 3600 // 60:02}:{at % 60:02}Z" for at in (started, ended)]
            with store.transaction() as connection:
                connection.execute("UPDATE session SET started=?, ended=? WHERE session=?", (*times, number))

        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                return datetime(2026, 1, 1, 0, 11, 50, tzinfo=tz)  # 710 s

        monkeypatch.setattr("rmeeto_bench.bench.store.store.datetime", Clock)
        assert store.worked("cpu") == 42 + 55
        assert store.worked("sim:v100") == 0
