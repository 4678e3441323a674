"""`flops` and `roofline` as people call them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sample_runs import arms, cpu_run, record, two_gpus

from rmeeto_bench.cli.commands import flops as cli_flops
from rmeeto_bench.cli.main import main
from rmeeto_bench.cost import flops
from rmeeto_bench.records.run import DeviceRecord, save


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict]:
    assert main([*words, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_flops_prints_the_published_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--model", "vim_small", "--r", "0,11"]) == 0
    text = capsys.readouterr().out
    baseline, merged = (line.split() for line in text.splitlines() if line.strip().startswith(("0 ", "11 ")))
    assert baseline == ["0", "0.0000", "197", "5.077", "5.164", "5.077", "5.164", "5.077", "5.999", "5.912", "10.764"]
    assert merged[3:8] == ["3.584", "3.584", "3.535", "3.585", "3.536"]
    assert max(map(len, text.splitlines())) <= 80


def test_flags_of_flops_change_what_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    (paper,) = answer(capsys, "flops", "--model", "vim_tiny", "--ratios", "0.14", "--convention", "hook")
    assert list(paper["gflops"]) == ["paper", "hook", "hook_without_matching"]
    assert (paper["r"], round(paper["gflops"]["hook"], 3)) == (5, 1.284)
    (exact,) = answer(capsys, "flops", "--model", "vim_tiny", "--r", "5", "--preset", "upstream_exact")
    assert (exact["final_tokens"], round(exact["gflops"]["hook"], 3)) == (76, 1.245)
    (odd,) = answer(capsys, "flops", "--model", "vim_tiny", "--r", "5", "--placement", "odd")
    assert round(odd["gflops"]["paper"], 2) == 1.27


def test_limits_of_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    rows = answer(capsys, "roofline", "--gpu", "h100-sxm", "--model", "vim_small", "--ratios", "0,0.14,...,0.54")
    assert [row["r"] for row in rows] == [0, 5, 10, 11, 15, 20]
    assert rows[0]["limit_images_per_second"] == pytest.approx(19_560, rel=0.01)
    assert rows[0]["bound"] == "exp (SFU)"
    assert set(rows[0]["limit_share_of_peak"]) == {"paper-mac", "flop"}
    (single,) = answer(capsys, "roofline", "--gpu", "h100-sxm", "--r", "0", "--batch-size", "1")
    assert single["bound"] == "launch"


def test_a_run_is_set_against_its_own_gpus_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(two_gpus(), tmp_path)
    rows = answer(capsys, "roofline", str(tmp_path), "--out", str(tmp_path / "figures"))
    assert {row["gpu"] for row in rows} == {"rtx4090", "h200"}
    first = rows[0]
    assert first["share_of_limit"] == pytest.approx(first["images_per_second"] / first["limit_images_per_second"])
    assert first["share_of_peak"]["flop"] == pytest.approx(1480 * 10.764 / 165_200, rel=1e-3)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {f"roofline_{gpu}_vim_small.{kind}" for gpu in ("rtx4090", "h200") for kind in ("png", "pdf", "svg")}
    before = (tmp_path / "figures" / "roofline_h200_vim_small.pdf").read_bytes()
    answer(capsys, "roofline", str(tmp_path), "--out", str(tmp_path / "figures"))
    assert (tmp_path / "figures" / "roofline_h200_vim_small.pdf").read_bytes() == before


@pytest.mark.parametrize("width", ["80", "160"])
def test_the_table_of_a_run_fits_its_terminal(
    width: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    run = two_gpus()
    save(replace(run, arms=tuple(replace(arm, verdict="PRECISION_NOT_REACHED") for arm in run.arms)), tmp_path)
    assert main(["roofline", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= int(width)
    assert "…" not in text
    assert "PRECISION" in text


def test_two_equal_cards_stay_apart(tmp_path: Path) -> None:
    devices = tuple(DeviceRecord(f"cuda:{i}", "NVIDIA H200", "cuda", "h200") for i in "ab")
    both = tuple(arm for device in devices for arm in arms(device.id, "vim_small", {0: 5000.0, 20: 9800.0}))
    save(record(devices, both), tmp_path)
    assert main(["roofline", str(tmp_path), "--out", str(tmp_path / "figures")]) == 0
    assert len(list((tmp_path / "figures").glob("*.png"))) == 2


def test_what_has_no_limit_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(cpu_run(), tmp_path)
    assert main(["roofline", str(tmp_path)]) == 5
    assert "the limits are those of GPUs, and this was measured on a CPU" in capsys.readouterr().err
    run = two_gpus()
    for change, reason in (
        ({"precision": "fp32"}, "half precision"),
        ({"token_counts": (197,) * 24, "final_tokens": 197}, "tokens per block"),
        ({"model": "vim_huge", "arm": "vim_huge/r20"}, "unknown model"),
        ({"images_per_second": None, "verdict": "OOM"}, "nothing measured (OOM)"),
    ):
        save(replace(run, arms=(*run.arms[:-1], replace(run.arms[-1], **change))), tmp_path)
        assert main(["roofline", str(tmp_path), "--json", "-"]) == 0
        found = capsys.readouterr()
        assert len(json.loads(found.out)) == len(run.arms) - 1
        assert reason in found.err


def test_the_choices_are_those_that_are_counted() -> None:
    assert cli_flops.CONVENTIONS == flops.CONVENTIONS


@pytest.mark.parametrize("command", ["models", "profiles"])
def test_a_reader_that_has_seen_enough_is_no_failure(command: str) -> None:
    """As in `rmeeto-bench models | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "rmeeto_bench", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
