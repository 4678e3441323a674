"""Two stored runs side by side."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_runs import arms, cpu_run, record, store_answers, two_gpus

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.cli.main import main
from rmeeto_bench.compare.stored_runs import Limits, StoredRun, compare, device_pairs
from rmeeto_bench.errors import DataError, MeasurementError
from rmeeto_bench.records.comparison import BETTER, FASTER, INCONCLUSIVE, RATE, REFUSED, SAME, SLOWER, SPEEDUP, TOP1, WORSE
from rmeeto_bench.records.run import DeviceRecord, Estimate, RunRecord, save

NOWHERE = Path("no-such-folder")


def scaled(run: RunRecord, factor: float, half: float = 0.002, sessions: int = 3) -> RunRecord:
    """The same run at another speed, each rate with a relative half-width."""
    found = []
    for arm in run.arms:
        assert arm.images_per_second is not None
        value = arm.images_per_second.value * factor
        found.append(replace(arm, images_per_second=Estimate(value, value * (1 - half), value * (1 + half)), sessions=sessions))
    return replace(run, arms=tuple(found))


def sides(first: RunRecord, second: RunRecord) -> tuple[StoredRun, StoredRun]:
    return StoredRun(NOWHERE, first), StoredRun(NOWHERE, second)


@pytest.mark.parametrize(
    ("factor", "half", "outcome"),
    [(1.0, 0.002, SAME), (0.95, 0.002, SLOWER), (1.05, 0.002, FASTER), (0.99, 0.03, INCONCLUSIVE), (0.997, 0.001, SAME)],
)
def test_a_rate_gets_the_word_of_its_interval(factor: float, half: float, outcome: str) -> None:
    found = compare(*sides(scaled(cpu_run(), 1.0, half), scaled(cpu_run(), factor, half)), Limits())
    rates = [change for change in found.changes if change.metric == RATE]
    assert {change.outcome for change in rates} == {outcome}
    assert rates[0].change.value == pytest.approx(factor - 1)
    assert {change.outcome for change in found.changes if change.metric == SPEEDUP} == {SAME}


def test_one_session_does_not_know_how_processes_differ() -> None:
    short = compare(*sides(scaled(cpu_run(), 1.0, 0.001, 1), scaled(cpu_run(), 0.99, 0.001, 1)), Limits())
    long = compare(*sides(scaled(cpu_run(), 1.0, 0.001, 5), scaled(cpu_run(), 0.99, 0.001, 5)), Limits())
    assert short.changes[0].outcome == INCONCLUSIVE
    assert long.changes[0].outcome == SLOWER
    noisy = compare(*sides(scaled(cpu_run(), 1.0, 0.001, 1), scaled(cpu_run(), 0.96, 0.001, 1)), Limits(process_sd=0.03))
    assert noisy.changes[0].outcome == INCONCLUSIVE


@pytest.mark.parametrize("verdict", ["SIMULATED", "THROTTLED"])
def test_what_is_not_valid_is_refused_or_shown_as_such(verdict: str) -> None:
    bad = replace(cpu_run(), arms=tuple(replace(arm, verdict=verdict) for arm in cpu_run().arms))
    with pytest.raises(MeasurementError, match=f"head {verdict}"):
        compare(*sides(cpu_run(), bad), Limits())
    found = compare(*sides(cpu_run(), bad), Limits(), explain=True)
    assert {change.outcome for change in found.changes} == {REFUSED}
    assert found.exit_code == 5
    assert found.changes[0].head == pytest.approx(100.0)


def test_other_machines_and_stacks_are_named() -> None:
    other = replace(
        cpu_run(),
        devices=(DeviceRecord("cpu", "Another CPU", "cpu"),),
        environment={"python": "3.13", "packages": {"torch": "2.12"}},
        plan={"preset": "quick"},
    )
    notes = " ".join(compare(*sides(cpu_run(), other), Limits()).notes)
    for words in ("Some CPU against Another CPU", "python 3.12 against 3.13", "torch 2.11 against 2.12", "presets differ"):
        assert words in notes
    assert not compare(*sides(cpu_run(), cpu_run()), Limits()).notes


def test_devices_pair_by_id_then_by_kind() -> None:
    moved = replace(two_gpus(), devices=tuple(replace(d, id=d.id + "2") for d in reversed(two_gpus().devices)))
    assert [(one.name, other.name) for one, other in device_pairs(two_gpus(), moved)] == [
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("NVIDIA H200", "NVIDIA H200"),
    ]
    assert device_pairs(two_gpus(), cpu_run()) == []


def test_runs_without_a_common_arm_are_refused() -> None:
    other = record(cpu_run().devices, arms("cpu", "vim_tiny", {0: 1.0}))
    with pytest.raises(DataError, match="share no measured arm"):
        compare(*sides(cpu_run(), other), Limits())


def stored(folder: Path, run: RunRecord, right: np.ndarray, labels: np.ndarray | None = None, pixels: int = 0) -> Path:
    """A run with predictions: `right` says of each image whether the arm at r = 20 has it."""
    save(run, folder)
    labels = np.arange(len(right)) % 10 if labels is None else labels
    with Store.create(folder) as store:
        wrong = (labels + 1) % 10
        answers = {arm.arm: np.where(right if arm.r == 20 else True, labels, wrong) for arm in run.arms}
        store_answers(store, "cpu", answers, labels, pixels=pixels)
        store.add_labels("cpu", "vim_nano", labels)
    return folder


def test_accuracy_is_paired_by_image_where_both_kept_their_predictions(tmp_path: Path) -> None:
    right, worse = np.arange(2000) % 5 > 0, np.arange(2000) % 5 > 0
    worse[1:200:5] = False  # 40 images more are wrong: 2 points, far less than two unpaired intervals can tell
    base = stored(tmp_path / "a", cpu_run(), right)
    head = stored(tmp_path / "b", cpu_run(), worse)
    found = compare(StoredRun(base, cpu_run()), StoredRun(head, cpu_run()), Limits())
    by_arm = {change.arm: change for change in found.changes if change.metric == TOP1}
    assert by_arm["vim_nano/r20"].change.value == pytest.approx(-2.0)
    assert by_arm["vim_nano/r20"].outcome == WORSE
    assert by_arm["vim_nano/r5"].outcome == SAME
    assert found.exit_code == 3
    back = compare(StoredRun(head, cpu_run()), StoredRun(base, cpu_run()), Limits())
    assert {c.outcome for c in back.changes if c.arm == "vim_nano/r20" and c.metric == TOP1} == {BETTER}


def test_accuracy_on_other_images_is_not_paired(tmp_path: Path) -> None:
    right = np.ones(2000, bool)
    base = stored(tmp_path / "a", cpu_run(), right)
    head = stored(tmp_path / "b", cpu_run(), right, labels=(np.arange(2000) + 3) % 10)
    found = compare(StoredRun(base, cpu_run()), StoredRun(head, cpu_run()), Limits())
    assert {c.detail.split(":")[0] for c in found.changes if c.metric == TOP1} == {"not paired"}
    other = stored(tmp_path / "c", cpu_run(), right, pixels=1)  # the same names and labels, other pixels
    found = compare(StoredRun(base, cpu_run()), StoredRun(other, cpu_run()), Limits())
    assert {c.detail.split(":")[0] for c in found.changes if c.metric == TOP1} == {"not paired"}
    assert any("images differ" in note for note in found.notes)


def test_the_command_exits_by_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save(scaled(cpu_run(), 1.0), tmp_path / "a")
    save(scaled(cpu_run(), 0.9), tmp_path / "b")
    words = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["compare", *words]) == 3
    assert "SLOWER" in capsys.readouterr().out
    assert main(["compare", *reversed(words)]) == 0
    assert main(["compare", *words, "--margin", "20%", "--json", "-"]) == 0
    assert '"outcome": "SAME"' in capsys.readouterr().out


def test_comparing_loads_no_torch(tmp_path: Path) -> None:
    save(scaled(cpu_run(), 1.0), tmp_path)
    code = (
        "import sys\nfrom rmeeto_bench.cli.main import main\n"
        f"assert main(['compare', {str(tmp_path)!r}, {str(tmp_path)!r}]) == 0\n"
        f"assert main(['export', {str(tmp_path)!r}, '--to', 'gab']) == 0\n"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
