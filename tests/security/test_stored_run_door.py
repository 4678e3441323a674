"""A stored run is somebody else's: reading it changes nothing in its folder and obeys nothing in its database."""

from __future__ import annotations

import ast
import hashlib
import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest
from bench_harness import controls, sim_plan

import rmeeto_bench
from rmeeto_bench.bench.run.runner import run
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.store.untrusted import NAMES_ANOTHER_FILE, open_stored
from rmeeto_bench.cli.main import main
from rmeeto_bench.errors import DataError
from rmeeto_bench.records.run import DATABASE, Block

PACKAGE = Path(rmeeto_bench.__file__).parent
# Those that write to the run they measure or continue. Everything else reads through `open_stored`.
OWNERS = {"bench/run/runner.py", "bench/run/callables.py", "bench/session/jobs.py", "fleet/join/stores.py"}
OWNERS |= {"compare/calibrate.py", "fleet/join/contribution.py"}  # of a folder of their own, of a copy that was checked


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    run(sim_plan("v100", preset="quick"), folder, controls())
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def readers(folder: Path, out: Path) -> list[list[str]]:
    return [
        ["show", str(folder), "--rounds"],
        ["report", str(folder), "--out", str(out / "report")],
        ["compare", str(folder), str(folder), "--explain"],
        ["export", str(folder), "--to", "csv"],
        ["ls", str(folder)],
        ["merge", str(folder), "--out", str(out / "merged")],
        ["figure", str(folder), "--kind", "speedup", "--out", str(out / "figure")],
        ["paper", "12", "--runs", str(folder)],
    ]


def forged_journal(folder: Path, victim: Path) -> None:
    """A rollback journal that SQLite takes for a crashed transaction over several files, one of them the victim."""
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    size = (folder / DATABASE).stat().st_size // 4096
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">IIIII", 0, 0, size, 512, 4096)
    name = str(victim).encode()
    ending = name + struct.pack(">II", len(name), sum(name)) + NAMES_ANOTHER_FILE
    record = struct.pack(">I", 4096 // 512 + 1)
    (folder / f"{DATABASE}-journal").write_bytes(header.ljust(512, b"\0") + record + ending)
    victim.write_bytes(b"precious")


def test_the_forged_journal_is_a_real_one(folder: Path, tmp_path: Path) -> None:
    """SQLite itself, opening the database in place, deletes the file: otherwise the next test shows nothing."""
    victim = tmp_path / "victim"
    forged_journal(folder, victim)
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        connection.execute("SELECT count(*) FROM block").fetchone()
    assert not victim.exists()


def test_a_forged_journal_deletes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    victim = tmp_path / "victim"
    forged_journal(folder, victim)
    before = contents(folder)
    for words in [*readers(folder, tmp_path / "out"), ["resume", str(folder)]]:
        code = main(words)
        errors = capsys.readouterr().err
        if words[0] in ("show", "report", "compare", "merge", "resume"):
            assert (code, "names another file" in errors) == (2, True), (words, errors)
        assert victim.read_bytes() == b"precious", words
        assert contents(folder) == before, words


def test_reading_leaves_a_run_as_it_is(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    before = contents(folder)
    for words in readers(folder, tmp_path / "out"):
        assert main(words) == (5 if words[0] == "compare" else 0), (words, capsys.readouterr().err)
        assert contents(folder) == before, words


def test_a_crashed_transaction_is_undone_in_the_copy(folder: Path) -> None:
    """Where a run keeps a rollback journal, as on disks that cannot have the other kind, its last commit is what counts."""
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA cache_size=1")
        connection.execute("BEGIN")
        connection.execute("UPDATE block SET telemetry = '{\"x\": \"' || hex(zeroblob(20000)) || '\"}', seconds = 5")
        crashed = Path(shutil.copytree(folder, folder.with_name("crashed")))
        connection.execute("ROLLBACK")
    assert (crashed / f"{DATABASE}-journal").stat().st_size > 512
    with open_stored(crashed) as store, open_stored(folder) as whole:
        assert store.blocks("sim:v100") == whole.blocks("sim:v100")


def test_a_run_that_is_being_written_is_shown_with_its_last_block(folder: Path, capsys: pytest.CaptureFixture) -> None:
    with Store.open(folder) as writer:
        writer.add_block(Block("sim:v100", 7, 0, 0, "vim_tiny/r0", 1, 1, 0.123, 0.123))
        assert (folder / f"{DATABASE}-wal").stat().st_size > 0
        assert main(["show", str(folder), "--rounds"]) == 0
        assert "123.0000" in capsys.readouterr().out
        writer.add_block(Block("sim:v100", 7, 1, 0, "vim_tiny/r0", 1, 1, 0.321, 0.321))
    with open_stored(folder) as store:
        assert store.count() == len(store.blocks("sim:v100"))


def test_a_database_larger_than_any_run_is_not_copied(folder: Path) -> None:
    with (folder / DATABASE).open("ab") as file:
        file.truncate(1 << 40)  # it takes no space on the disk
    with pytest.raises(DataError, match="larger than any run"), open_stored(folder):
        pass


def test_nobody_else_opens_a_database() -> None:
    """Calls of `Store.open`, `Store.create` and `sqlite3.connect` outside those who own the run."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Store.open", "Store.create", "sqlite3.connect"):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found - {"bench/store/store.py", "bench/store/journal.py", "bench/store/untrusted.py"} <= OWNERS
