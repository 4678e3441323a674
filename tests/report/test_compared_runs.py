"""Comparisons and exports as other programs read them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console
from sample_runs import arms, cpu_run, record, two_gpus

from rmeeto_bench.cli.main import main
from rmeeto_bench.records.comparison import (
    FAIL,
    FASTER,
    INCONCLUSIVE,
    MEMORY,
    NO_LOSS,
    PASS,
    RATE,
    REFUSED,
    SAME,
    TOP1,
    Change,
    Comparison,
    to_json,
)
from rmeeto_bench.records.run import DeviceRecord, Estimate, save
from rmeeto_bench.report.comparison import github_annotations, headline, junit, markdown, table
from rmeeto_bench.report.run.export import FORMATS

CHANGES = (
    Change("Some GPU", "vim_small/r0", RATE, 1480.0, 1481.0, Estimate(0.0007, -0.002, 0.003), 0.005, PASS),
    Change("Some GPU", "vim_small/r11", RATE, 1690.0, 1600.0, Estimate(-0.0533, -0.056, -0.05), 0.005, FAIL),
    Change("Some GPU", "vim_small/r11", TOP1, 79.3, 79.1, Estimate(-0.2, -0.5, 0.1), 0.2, INCONCLUSIVE),
    Change("Some GPU", "vim_small/r11", MEMORY, 2000.0, 2000.0, Estimate(0.0, 0.0, 0.0), 0.01, PASS),
)
GATE = Comparison("gate", "origin/main", "HEAD", FAIL, CHANGES, ("a | note",), pairs=5)


def test_the_headline_names_the_worst_and_what_is_unclear() -> None:
    assert headline(GATE) == (
        "FAIL: images/s of vim_small/r11 -5.33 [-5.60, -5.00] %; "
        "1 of 4 quantities: a change above the margin is neither shown nor excluded; 5 processes a side"
    )


@pytest.mark.parametrize(
    ("kind", "outcomes", "says"),
    [
        ("gate", (PASS, PASS), "PASS: 2 quantities: a loss of twice its margin is excluded for each; 5 processes a side"),
        ("compare", (SAME, SAME), "SAME: 2 quantities: a change above its margin is excluded for each"),
        ("compare", (SAME, NO_LOSS), "SAME: 2 quantities: none is shown to be worse"),
        ("compare", (FASTER, SAME), "FASTER: 2 quantities: none is shown to be worse"),
        ("compare", (INCONCLUSIVE, SAME), "1 of 2 quantities: a change above the margin is neither shown nor excluded"),
    ],
)
def test_the_headline_says_no_more_than_the_intervals(kind: str, outcomes: tuple[str, str], says: str) -> None:
    changes = tuple(replace(CHANGES[0], outcome=outcome) for outcome in outcomes)
    assert says in headline(replace(GATE, kind=kind, outcome=outcomes[0], changes=changes))


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_holds_every_change_and_fits_a_terminal(width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(GATE, width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for words in ("-5.33", "[-5.60, -5.00] %", "-0.20", "[-0.50, +0.10] points", "2000 MiB", "79.30 %", "FAIL", "INCONCLUSIVE"):
        assert words in text


def test_the_headline_says_what_was_refused() -> None:
    refused = replace(CHANGES[0], outcome=REFUSED, detail="base THROTTLED")
    only = replace(GATE, kind="compare", outcome=REFUSED, changes=(refused,))
    assert headline(only) == "REFUSED: 1 of 1 quantities may not be judged"


def test_markdown_is_one_table_whose_cells_cannot_break_out() -> None:
    text = markdown(replace(GATE, changes=(replace(CHANGES[0], arm="a|b", margin=1.34), *CHANGES[1:])))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(CHANGES)
    assert {row.replace("\\|", "").count("|") for row in rows} == {8}
    assert "- a \\| note" in text
    assert "| 134 % |" in text, "no exponent"


def test_junit_counts_failures_and_skips() -> None:
    suite = ElementTree.fromstring(junit(replace(GATE, changes=(replace(CHANGES[1], device='<"&>'), *CHANGES[1:]))))
    assert suite.tag == "testsuite"
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "2", "1")
    assert suite[0].get("classname", "").startswith('<"&>')
    assert "-5.33" in suite.find("testcase/failure").get("message")  # type: ignore[union-attr]


def test_annotations_are_one_line_each_and_only_for_what_needs_eyes() -> None:
    lines = github_annotations(replace(GATE, changes=(*CHANGES, replace(CHANGES[1], device="a\nb%"))))
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning", "::error"]
    assert not any("\n" in line for line in lines)
    assert "a%0Ab%25" in lines[2]
    assert "-5.33 [-5.60, -5.00] %25" in lines[0]


def test_ci_gets_its_summary_annotations_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import argparse

    from rmeeto_bench.cli.comparing import show

    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    arguments = argparse.Namespace(json=str(tmp_path / "gate.json"), junit=tmp_path / "gate.xml")
    assert show(GATE, arguments) == 3
    assert "| vim_small/r11 |" in summary.read_text(encoding="utf-8")
    assert capsys.readouterr().err.startswith("::error title=")
    assert json.loads((tmp_path / "gate.json").read_text(encoding="utf-8"))["outcome"] == FAIL
    assert ElementTree.parse(tmp_path / "gate.xml").getroot().get("failures") == "1"
    monkeypatch.delenv("GITHUB_ACTIONS")
    arguments.json = "-"
    assert show(replace(GATE, outcome=INCONCLUSIVE), arguments) == 4
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == "rmeeto-bench-comparison/1"
    assert captured.err == ""


def test_json_is_stable() -> None:
    assert to_json(GATE) == to_json(GATE)
    assert json.loads(to_json(GATE))["changes"][1]["change"]["low"] == -0.056


def test_github_action_benchmark_gets_bigger_is_better_entries() -> None:
    entries = json.loads(FORMATS["gab"](two_gpus()))
    assert {frozenset(entry) for entry in entries} == {frozenset(("name", "unit", "value", "range", "extra"))}
    assert len({entry["name"] for entry in entries}) == len(entries)
    first = entries[0]
    assert (first["unit"], first["value"], first["range"]) == ("images/s", 1480.0, "± 7.4")
    assert not any("r0" in entry["name"] and entry["name"].endswith("speedup") for entry in entries)


def test_bencher_gets_values_with_bounds() -> None:
    found = json.loads(FORMATS["bmf"](two_gpus()))
    assert len(found) == len(two_gpus().arms)
    measures = found["NVIDIA GeForce RTX 4090, vim_small/r11, fp16, batch 128"]
    assert set(measures) == {"images-per-second", "speedup", "top1"}
    assert measures["images-per-second"]["lower_value"] < measures["images-per-second"]["value"] == 1690.0


def test_no_history_takes_simulated_or_empty_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    simulated = record((DeviceRecord("sim:x", "X", "sim"),), arms("sim:x", "vim_small", {0: 1.0}))
    save(simulated, tmp_path / "sim")
    save(replace(cpu_run(), arms=()), tmp_path / "empty")
    for name, says in (("sim", "simulated"), ("empty", "measured nothing")):
        assert main(["export", str(tmp_path / name), "--to", "gab"]) == 5
        assert says in capsys.readouterr().err
    assert main(["export", str(tmp_path / "sim"), "--to", "json"]) == 0
