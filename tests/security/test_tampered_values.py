"""Odd and tampered values in a run that the program made: each is drawn, or refused in one line, by every reading command."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_harness import controls, sim_plan
from sample_runs import store_answers

from rmeeto_bench.bench.run.runner import run
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.store.values import TABLES
from rmeeto_bench.cli.main import main
from rmeeto_bench.records.run import DATABASE, MANIFEST

SECONDS = 15.0  # of processor time, for all commands on one value; a busy machine counts nothing here
ODD_NAMES = (
    *("[/x]", "[red]x[/red]", "$\\frac{1}{$", "$x$", "a_b^c", "\\input{/etc/passwd}", "<script>alert(1)</script>", "=1+1"),
    *("@SUM(A1)", "+1", "-1", "%s %d {0} {}", "|a|b|", "`x`", "](http://x)", "", " ", "日本", "\N{PILE OF POO}", "n" * 250),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two devices with latencies, energy in its telemetry, answers to images, and a sweep in its manifest."""
    folder = tmp_path_factory.mktemp("made") / "run"
    record = run(sim_plan("v100,h100-sxm", preset="quick", rs=(0, 11), paper_mode=True), folder, controls())
    labels = np.arange(20) % 10
    with Store.open(folder) as store:
        for device in record.devices:
            names = [arm.arm for arm in record.arms if arm.device == device.id]
            store_answers(store, device.id, {name: labels.astype(np.int16) for name in names}, labels)
            store.add_latencies(device.id, 0, names[0], [0.01, 0.02])
    value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    first = value["arms"][0]
    value["sweep"] = [
        {**{name: first[name] for name in ("device", "arm", "model", "r", "images_per_second", "verdict")}, "batch_size": size}
        for size in (1, 128)
    ]
    for arm in value["arms"]:
        arm["top1"], arm["n_images"] = {"value": 100.0, "low": 80.0, "high": 100.0}, 20
    (folder / MANIFEST).write_text(json.dumps(value), encoding="utf-8")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def outcome(words: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Exit code and standard error; an exception that nobody caught fails the test as itself."""
    started = time.process_time()
    code = main(words)
    errors = capsys.readouterr().err
    assert code in (0, 2, 5), (words, errors)
    assert time.process_time() - started < SECONDS
    if code == 2:
        ours = [line for line in errors.splitlines() if line.startswith("rmeeto-bench: ")]
        assert len(ours) == 1, errors
        assert len(ours[0]) < 1000
        assert "\x1b" not in errors
    return code, errors


def drawn_or_refused(folder: Path, made: Path, capsys: pytest.CaptureFixture, *, pictures: bool = False) -> int:
    """Through all commands that read; the worst exit code. `pictures`: `report` and `figure` too, which take seconds."""
    commands = [
        ["show", str(folder), "--rounds"],
        ["compare", str(made), str(folder), "--explain"],
        ["export", str(folder), "--to", "csv"],
        ["export", str(folder), "--to", "json"],
        ["ls", str(folder)],
    ]
    if pictures:
        commands += [["report", str(folder), "--out", str(folder.parent / "out")]]
        commands += [["figure", str(folder), "--kind", "energy", "--out", str(folder.parent / "energy.svg")]]
    codes = []
    for words in commands:
        code, _ = outcome(words, capsys)
        codes.append(code)
        if code == 2:
            break
    return max(codes)


# ---- the database: every column, with values of other types, sizes and ranges

ODD_SQL = ("NULL", "'x'", "x'00ff'", "-1", "0", "1e999", "-1e999", "1.5", "9223372036854775807", "''")
DATABASE_CASES = [
    (table, column, value)
    for number, (table, column) in enumerate((t, c) for t, columns in TABLES.items() for c in columns)
    for value in (ODD_SQL[(number + k) % len(ODD_SQL)] for k in (0, 3, 6))
]


def edit(folder: Path, statement: str) -> bool:
    """Whether the statement changed anything; SQLite itself refuses some."""
    with closing(sqlite3.connect(folder / DATABASE)) as connection, connection:
        try:
            return connection.execute(statement).rowcount > 0
        except (sqlite3.IntegrityError, sqlite3.DataError):
            return False


def test_every_table_of_the_made_run_has_rows_to_change(made: Path) -> None:
    with closing(sqlite3.connect(made / DATABASE)) as connection:
        empty = {t for t in TABLES if connection.execute(f"SELECT count(*) FROM {t}").fetchone() == (0,)}
    assert empty <= {"probe", "problem"}


@pytest.mark.parametrize("table", TABLES)
def test_odd_values_in_the_database(made: Path, tmp_path: Path, table: str, capsys: pytest.CaptureFixture) -> None:
    for number, (_, column, value) in enumerate(case for case in DATABASE_CASES if case[0] == table):
        folder = Path(shutil.copytree(made, tmp_path / str(number) / "run"))
        if table in ("probe", "problem"):
            names = ",".join(TABLES[table])
            filled = {"probe": "'sim:v100',0,'a',x'0000','d'", "problem": "'d',0,'p','r',0"}[table]
            assert edit(folder, f"INSERT INTO {table}({names}) VALUES({filled})")
        if edit(folder, f"UPDATE {table} SET {column} = {value} WHERE rowid = (SELECT min(rowid) FROM {table})"):
            drawn_or_refused(folder, made, capsys)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE block SET seconds = 'fast' WHERE rowid = 3", "table block, column seconds, row 3"),
        ("UPDATE block SET seconds = 0 WHERE rowid = 2", "table block, column seconds, row 2"),
        ("UPDATE block SET seconds = -1 WHERE rowid = 2", "table block, column seconds, row 2"),
        ("UPDATE block SET seconds = 1e999 WHERE rowid = 2", "table block, column seconds, row 2"),
        ("UPDATE block SET images = 0 WHERE rowid = 2", "table block, column images, row 2"),
        ("UPDATE block SET images = x'00' WHERE rowid = 2", "table block, column images, row 2"),
        ("UPDATE block SET telemetry = '[1]' WHERE rowid = 1", "table block, column telemetry, row 1"),
        ('UPDATE block SET telemetry = \'{"energy_j": "x"}\' WHERE rowid = 1', "table block, column telemetry, row 1"),
        ("UPDATE block SET telemetry = '{\"energy_j\": NaN}' WHERE rowid = 1", "table block, column telemetry, row 1"),
        ("UPDATE block SET telemetry = '{' WHERE rowid = 1", "table block, column telemetry, row 1"),
        ("UPDATE block SET arm = char(27) || '[2J' WHERE rowid = 1", "control characters"),
        ("UPDATE block SET rejected_reason = hex(zeroblob(1000000)) WHERE rowid = 1", "column rejected_reason, row 1"),
        ("UPDATE prediction SET count = 3", "table prediction"),
        ("UPDATE prediction SET top5 = x'00'", "table prediction, column top5"),
        ("UPDATE seen SET labels = x'000000'", "table seen, column labels"),
        ("UPDATE seen SET digests = x'0000000000000000'", "table seen"),
        ("UPDATE arm SET facts = '{}'", "table arm, column facts"),
        ("UPDATE latency SET seconds = x'0000807f'", "table latency, column seconds"),
        ("UPDATE session SET result = '7'", "table session, column result"),
    ],
)
def test_a_tampered_value_is_named_by_table_column_and_row(
    folder: Path, made: Path, statement: str, says: str, capsys: pytest.CaptureFixture
) -> None:
    assert edit(folder, statement)
    for words in (["show", str(folder), "--rounds"], ["compare", str(made), str(folder), "--explain"]):
        code, errors = outcome(words, capsys)
        assert (code, says in errors) == (2, True), (words, errors)


# ---- the manifest

Edit = Callable[[dict[str, Any]], object]


def arm(name: str, value: Any) -> Edit:
    return lambda record: record["arms"][1].__setitem__(name, value)


def estimate(name: str, *ends: float | None) -> Edit:
    return arm(name, dict(zip(("value", "low", "high"), ends, strict=True)))


def data(value: Any) -> Edit:
    return lambda record: record["data"].__setitem__(record["arms"][0]["model"], value)


BAD_ENDS = (
    (0.0, 0.0, 0.0),
    (-5.0, -6.0, -4.0),
    (50.0, 60.0, 70.0),
    (50.0, 10.0, 20.0),
    (1e300, 1.0, 1e308),
    (float("nan"),) * 3,
)
REFUSED: dict[str, Edit] = {
    **{
        f"{name} {ends}": estimate(name, *ends)
        for name in ("images_per_second", "speedup", "noise_speed", "joules_per_image")
        for ends in BAD_ENDS
    },
    **{f"{name} of {v}": arm(name, v) for name, v in (("r", -1), ("r", 5), ("r", "11"), ("r", 10**9), ("batch_size", 0))},
    **{f"{name} of {v}": arm(name, v) for name, v in (("rounds", -1), ("sessions", -1), ("n_images", -5), ("top1_p", 7.0))},
    **{f"token counts {v}": arm("token_counts", v) for v in ([], [197, 3], [-1], "x")},
    **{f"{name} {v}": arm(name, v) for name in ("paper", "paper_mode", "latency_ms") for v in ({}, {"x": 1.0}, {"p50": -1.0})},
    "paper of 0": arm("paper", {"images_per_second": 0.0, "speedup": 0.0}),
    "top-1 of 170": estimate("top1", 170.0, 160.0, 180.0),
    "top-1 outside its interval": estimate("top1", 50.0, 60.0, 70.0),
    "data is a list": data([1]),
    "images of data are text": data({"images": "many", "name": "x"}),
    "images without a name": data({"images": 3}),
    "models are numbers": lambda record: record["plan"].__setitem__("models", [1]),
    "an arm twice": lambda record: record["arms"].append(record["arms"][0]),
    "a device twice": lambda record: record["devices"].append(record["devices"][0]),
    "an arm of another model": arm("model", "deit_tiny"),
    "a name of 100,000 characters": lambda record: record["devices"][0].__setitem__("name", "x" * 100_000),
    "a name with a line break": lambda record: record["devices"][0].__setitem__("name", "x\ny"),
    "a sweep of an unknown device": lambda record: record["sweep"][0].__setitem__("device", "gone"),
    "a sweep of batch 0": lambda record: record["sweep"][0].__setitem__("batch_size", 0),
    "10,000 arms": lambda record: record.__setitem__(
        "arms", [{**record["arms"][0], "r": r, "arm": f"{record['arms'][0]['model']}/r{r}"} for r in range(10_000)]
    ),
    "1,000 devices": lambda record: record.__setitem__(
        "devices", [*record["devices"], *({**record["devices"][0], "id": f"sim:{i}"} for i in range(1000))]
    ),
}  # fmt: skip


def change(folder: Path, edit: Edit) -> None:
    value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    edit(value)
    (folder / MANIFEST).write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize("edit", REFUSED.values(), ids=REFUSED)
def test_a_manifest_that_no_run_has_is_refused(folder: Path, made: Path, edit: Edit, capsys: pytest.CaptureFixture) -> None:
    change(folder, edit)
    for words in (["show", str(folder)], ["compare", str(made), str(folder), "--explain"]):
        code, errors = outcome(words, capsys)
        assert code == 2, words
        assert "manifest" in errors


ACCEPTED: dict[str, Edit] = {
    "no interval": estimate("images_per_second", 5.0, None, None),
    "half an interval": estimate("speedup", 1.5, 1.4, None),
    "tiny numbers": estimate("images_per_second", 1e-9, 1e-10, 1e-8),
    "large numbers": estimate("images_per_second", 1e11, 1e10, 1e12),
    "a width of 0": estimate("speedup", 1.5, 1.5, 1.5),
    "rounding": estimate("top1", 100.0, 80.0, 99.99999999999999),
    "break-even outside its interval": estimate("break_even", 0.5, 0.6, 0.7),
    "no speed": arm("images_per_second", None),
    "no GFLOPs": arm("gflops", {}),
    "no arms": lambda record: record.update(arms=[], sweep=[]),
    "no devices": lambda record: record.update(arms=[], sweep=[], devices=[]),
    "no data": lambda record: record.__setitem__("data", {}),
    "half a sweep": lambda record: record["sweep"].pop(),
    "one arm without a baseline": lambda record: record.update(arms=record["arms"][1:2]),
    "doubts of any kind": data({"images": 0, "hint": ["x"], "unreadable": "many", "energy_doubt": {"a": 1}}),
}


DRAWN = ("tiny numbers", "large numbers", "break-even outside its interval", "no arms", "no devices")
PICTURED = [ACCEPTED[name] for name in DRAWN]  # drawing takes seconds


@pytest.mark.parametrize("edit", ACCEPTED.values(), ids=ACCEPTED)
def test_what_passes_the_door_is_drawn(folder: Path, made: Path, edit: Edit, capsys: pytest.CaptureFixture) -> None:
    change(folder, edit)
    commands = [["show", str(folder), "--rounds"], ["export", str(folder), "--to", "csv"]]
    if edit in PICTURED:
        commands.append(["report", str(folder), "--out", str(folder.parent / "out")])
    for words in commands:
        assert outcome(words, capsys)[0] == 0, words
    outcome(["compare", str(made), str(folder), "--explain"], capsys)


def named(number: int, name: str) -> Edit:
    def edit(record: dict[str, Any]) -> None:
        if number % 2:
            record["devices"][0]["name"] = name
            return
        for entry in (*record["arms"], *record["sweep"]):
            entry["model"], entry["arm"] = name, f"{name}/r{entry['r']}"
        record["data"] = {name: {"images": 20, "name": name}}
        record["run_id"] = record["arms"][0]["weights"] = record["arms"][0]["verdict"] = name

    return edit


@pytest.mark.parametrize("number", range(len(ODD_NAMES)))
def test_a_name_is_text_in_every_format(folder: Path, made: Path, number: int, capsys: pytest.CaptureFixture) -> None:
    for which in (0, 1):
        change(folder, named(which, ODD_NAMES[number]))
    out = folder.parent / "out"
    assert drawn_or_refused(folder, made, capsys, pictures=number < 4) in (0, 2)
    assert outcome(["export", str(folder), "--to", "csv", "--out", str(out / "table.csv")], capsys)[0] == 0
    for line in (out / "table.csv").read_text(encoding="utf-8").splitlines()[1:]:
        assert not any(cell.lstrip('"').startswith(("=", "@", "+S")) for cell in line.split(",")), line
