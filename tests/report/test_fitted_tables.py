"""Tables keep r, the speed-up and the ends of its interval at every width, and say something true with r = 0 alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_runs import arms, cpu_run, record

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.cli.main import main
from rmeeto_bench.records.run import Block, save


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 160])
def test_no_width_loses_r_or_an_end_of_the_speed_up(
    tmp_path: Path, width: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    save(cpu_run(), tmp_path)
    assert main(["show", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    table = text[: text.index("files:")]
    for value in ("1.700x", "[1.697, 1.703]", "1.300x", "[1.297, 1.303]"):
        assert value in table, width
    assert "…" not in table
    place = 0 if width < 120 else 1  # a wide table begins with the ratio asked for
    assert [line.split()[place] for line in table.splitlines() if "00x" in line or "70x" in line] == ["0", "5", "10", "20"]
    assert max(map(len, table.splitlines())) <= width


LISTINGS = {  # command -> what a narrow table must not lose
    "ls .": ["run", "VALID"],
    "show run --rounds": ["10.7000 (0)", "cut short"],
    "profiles": ["h100-sxm", "989.4"],
    "models": ["videomamba_middle_k400_f8", "3x8x224x224"],
    "flops --model vim_tiny": ["0.5398", "3.116"],
    "roofline --gpu h100-sxm --r 0,20": ["bound by"],
}


@pytest.mark.parametrize("width", [30, 80])
def test_no_listing_loses_a_value(
    tmp_path: Path, width: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(tmp_path)
    save(cpu_run(), tmp_path / "run")
    with Store.create(tmp_path / "run") as store:
        for arm in cpu_run().arms[:2]:
            store.add_block(Block(arm.device, 0, int(arm.r == 0), 0, arm.arm, 1, 1, 0.0107, 0.0107))
    for command, kept in LISTINGS.items():
        assert main(command.split()) == 0, command
        text = capsys.readouterr().out
        assert "…" not in text, command
        assert [value for value in kept if value not in text] == [], (command, text)


@pytest.mark.parametrize("width", [40, 80])
def test_a_comparison_keeps_its_change(
    tmp_path: Path, width: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    save(cpu_run(), tmp_path)
    assert main(["compare", str(tmp_path), str(tmp_path)]) in (0, 4)
    text = capsys.readouterr().out
    assert "…" not in text
    assert text.count("+0.00") >= 7
    assert "/r20" in text


def test_r_0_alone_is_no_finding_about_merging(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one = cpu_run()
    save(record(one.devices, arms("cpu", "vim_nano", {0: 100.0})), tmp_path)
    assert main(["show", str(tmp_path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "only r = 0 was measured" in text
    assert "no merging ratio is faster" not in text
