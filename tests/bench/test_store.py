"""The run store keeps what it was given, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from rmeeto_bench.bench.store import Store
from rmeeto_bench.errors import DataError, UnavailableError
from rmeeto_bench.records import DATABASE, Block


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
        assert store.rounds("cpu", ["a", "b"]) == {"a": [0.1], "b": [0.05]}


def test_predictions_stop_at_a_gap(tmp_path: Path) -> None:
    first, later = np.arange(10, dtype=np.int16).reshape(2, 5), np.ones((3, 5), np.int16)
    with Store.create(tmp_path) as store:
        store.add_predictions("cpu", "a", 0, first)
        store.add_predictions("cpu", "a", 5, later)
        assert np.array_equal(store.predictions("cpu", "a"), first)
        store.add_predictions("cpu", "a", 2, later)
        assert len(store.predictions("cpu", "a")) == 8
        assert store.predictions("cpu", "b").shape == (0, 5)


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
        from rmeeto_bench.bench.store import Store
        from rmeeto_bench.records import Block
        store = Store.create(Path(sys.argv[1]))
        for number in range(10_000):
            store.add_block(Block("cpu", 0, number, 0, "a", 1, 1, 1.0, 1.0))
            print(number, flush=True)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        last = [int(child.stdout.readline()) for _ in range(25)][-1]
        os.kill(child.pid, signal.SIGKILL)
    with Store.open(tmp_path / "run") as store:
        stored = [item.round for item in store.blocks("cpu")]
    assert stored[: last + 1] == list(range(last + 1))
