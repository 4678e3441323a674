"""`paper` as people call it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sample_runs import two_gpus

from rmeeto_bench.cli.main import main
from rmeeto_bench.records.run import save


def test_everything_is_rendered_on_a_bare_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "--all", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out.splitlines()
    assert len(output) == 27
    for line in output:
        complete = line.startswith(("Table 10,", "Figure"))
        assert complete or "; " in line.split(" published numbers")[1], line  # each says what it lacks
    names = {path.name for path in tmp_path.iterdir()}
    assert {"table_01a.tex", "table_05b.csv", "table_12.md", "table_23.html", "fig1b.pdf", "fig4.svg", "index.html"} <= names
    assert len(names) == 25 * 4 + 2 * 3 + 1
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{name}"' in index for name in names - {"index.html"})


def test_a_run_fills_its_cells_and_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = two_gpus()
    quick = replace(run.arms[1], verdict="EXPLORATORY", verdict_detail="a quick look")
    save(replace(run, arms=(run.arms[0], quick, *run.arms[2:])), tmp_path)
    assert main(["paper", "12", "--runs", str(tmp_path)]) == 0
    answer = capsys.readouterr()
    assert "| 1480 [1473, 1487] | +0.7 [+0.2, +1.2] % | same GPU kind" in answer.out
    assert "| RTX 4090 | 1370 | — |" in answer.out
    assert answer.err.count("\n") == 1
    assert "EXPLORATORY: a quick look" in answer.err


@pytest.mark.parametrize("width", ["80", "160"])
def test_the_list_names_every_item_with_its_needs(
    width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert main(["paper", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= int(width)
    assert len([line for line in lines if not line.startswith(" ")]) == 27
    assert sum(line.startswith("      needs") for line in lines) == sum("      at hand" in line for line in lines) == 27
