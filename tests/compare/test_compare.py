"""Two stored runs side by side."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_runs import arms, cpu_run, record, store_answers, two_gpus
from scipy import stats

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.cli.main import main
from rmeeto_bench.compare.stored_runs import StoredRun, Tolerances, compare, device_pairs
from rmeeto_bench.compare.top1 import OTHER_IMAGES
from rmeeto_bench.errors import DataError, MeasurementError
from rmeeto_bench.measure.statistics import log_error, run_rate
from rmeeto_bench.records.comparison import (
    BETTER,
    FASTER,
    INCONCLUSIVE,
    NO_LOSS,
    RATE,
    REFUSED,
    SAME,
    SLOWER,
    SPEEDUP,
    TOP1,
    WORSE,
)
from rmeeto_bench.records.run import DeviceRecord, Estimate, RunRecord, save

NOWHERE = Path("no-such-folder")


def scaled(run: RunRecord, factor: float, half: float = 0.002, sessions: int = 3) -> RunRecord:
    """The same run at another speed, each rate with a relative half-width."""
    found = []
    for arm in run.arms:
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
    found = compare(*sides(scaled(cpu_run(), 1.0, half), scaled(cpu_run(), factor, half)), Tolerances())
    rates = [change for change in found.changes if change.metric == RATE]
    assert {change.outcome for change in rates} == {outcome}
    assert rates[0].change.value == pytest.approx(factor - 1)
    assert {change.outcome for change in found.changes if change.metric == SPEEDUP} == {SAME}


def test_fewer_than_three_sessions_a_side_give_no_verdict_on_speed() -> None:
    for sessions in (1, 2):
        found = compare(*sides(scaled(cpu_run(), 1.0, 0.001, sessions), scaled(cpu_run(), 0.8, 0.001, 5)), Tolerances())
        speeds = [change for change in found.changes if change.metric != TOP1]
        assert {change.outcome for change in speeds} == {INCONCLUSIVE}
        assert found.exit_code == 4
        assert "no verdict on fewer than 3 sessions a side; run without --quick" in found.notes


def test_the_error_behind_a_printed_interval_is_the_one_it_was_made_from() -> None:
    rng = np.random.default_rng(193)
    for sessions in (3, 6, 10):
        centres = rng.normal(0, 0.01, sessions)
        found = run_rate([np.full(6, np.exp(x)) for x in centres])
        assert log_error(found, sessions) == pytest.approx(centres.std(ddof=1) / np.sqrt(sessions), rel=1e-6)
        assert log_error(found, 2) is None


def repeated(rng: np.random.Generator, sessions: int, process_sd: float) -> RunRecord:
    """A run of one program as `run` would record it: every arm of every process has an effect of its own."""
    centres = rng.normal(0, np.hypot(process_sd, 0.001), (4, sessions))
    quantile = float(stats.t.ppf(0.975, max(1, sessions - 1)))

    def estimate(values: np.ndarray) -> Estimate:
        value, half = values.mean(), quantile * values.std(ddof=1 if sessions > 1 else 0) / np.sqrt(sessions)
        return Estimate(*(float(np.exp(end)) for end in (value, value - half, value + half)))

    found = []
    for number, arm in enumerate(cpu_run().arms):
        speedup = estimate(centres[number] - centres[0]) if arm.r else Estimate(1.0)
        change = {"images_per_second": estimate(centres[number]), "speedup": speedup, "sessions": sessions}
        found.append(replace(arm, top1=None, delta_top1=None, **change))
    return replace(cpu_run(), arms=tuple(found))


@pytest.mark.parametrize(("sessions", "process_sd"), [(1, 0.01), (3, 0.004), (3, 0.01), (6, 0.01), (10, 0.01)])
def test_a_run_against_its_repetition_is_slower_in_at_most_five_of_a_hundred(sessions: int, process_sd: float) -> None:
    rng, trials = np.random.default_rng([sessions, 191]), 300
    codes = [
        compare(*sides(*(repeated(rng, sessions, process_sd) for _ in range(2))), Tolerances(speed=0.0)).exit_code
        for _ in range(trials)
    ]
    assert codes.count(3) <= trials * (0.05 + 3 * np.sqrt(0.05 * 0.95 / trials))
    assert sessions > 1 or set(codes) == {4}


def test_a_loss_that_chance_does_not_explain_is_slower_for_all_the_correction() -> None:
    rng = np.random.default_rng(192)
    base, head = repeated(rng, 6, 0.002), repeated(rng, 6, 0.002)
    slow = [replace(a, images_per_second=e.__class__(*(0.97 * v for v in (e.value, e.low, e.high))))
            for a in head.arms if (e := a.images_per_second)]  # fmt: skip
    found = compare(*sides(base, replace(head, arms=tuple(slow))), Tolerances())
    assert {c.outcome for c in found.changes if c.metric == RATE} == {SLOWER}
    assert found.exit_code == 3


@pytest.mark.parametrize(
    ("r0", "arm", "outcome", "code"), [(1.05, 1.0, NO_LOSS, 0), (1.0, 0.95, SLOWER, 3), (1.0, 1.05, FASTER, 0)]
)
def test_a_speed_up_that_fell_because_the_baseline_rose_is_no_loss(r0: float, arm: float, outcome: str, code: int) -> None:
    def run(first: float, second: float) -> RunRecord:
        found = []
        for a in cpu_run().arms:
            rate = 100 * (second if a.r else first)
            ratio = second / first if a.r else 1.0
            estimates = {
                name: Estimate(value, 0.998 * value, 1.002 * value)
                for name, value in (("images_per_second", rate), ("speedup", ratio))
            }
            found.append(replace(a, sessions=6, **estimates))
        return replace(cpu_run(), arms=tuple(found))

    found = compare(*sides(run(1.0, 1.0), run(r0, arm)), Tolerances())
    assert {c.outcome for c in found.changes if c.metric == SPEEDUP} == {outcome}
    assert found.exit_code == code
    assert any("because r = 0 got faster" in note for note in found.notes) is (outcome == NO_LOSS)


@pytest.mark.parametrize("verdict", ["SIMULATED", "THROTTLED"])
def test_what_is_not_valid_is_refused_or_shown_as_such(verdict: str) -> None:
    bad = replace(cpu_run(), arms=tuple(replace(arm, verdict=verdict) for arm in cpu_run().arms))
    with pytest.raises(MeasurementError, match=f"head {verdict}"):
        compare(*sides(cpu_run(), bad), Tolerances())
    found = compare(*sides(cpu_run(), bad), Tolerances(), explain=True)
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
    notes = " ".join(compare(*sides(cpu_run(), other), Tolerances()).notes)
    for words in ("Some CPU against Another CPU", "python 3.12 against 3.13", "torch 2.11 against 2.12", "presets differ"):
        assert words in notes
    assert not compare(*sides(scaled(cpu_run(), 1.0), scaled(cpu_run(), 1.0)), Tolerances()).notes


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
        compare(*sides(cpu_run(), other), Tolerances())


def stored(folder: Path, run: RunRecord, right: np.ndarray, labels: np.ndarray | None = None, pixels: int = 0) -> Path:
    """A run with predictions: `right` says of each image whether the arm at r = 20 has it."""
    save(run, folder)
    labels = np.arange(len(right)) % 10 if labels is None else labels
    with Store.create(folder) as store:
        wrong = (labels + 1) % 10
        answers = {arm.arm: np.where(right if arm.r == 20 else True, labels, wrong) for arm in run.arms}
        store_answers(store, "cpu", answers, labels, pixels=pixels)
    return folder


def test_accuracy_is_paired_by_image_where_both_kept_their_predictions(tmp_path: Path) -> None:
    right, worse = np.arange(2000) % 5 > 0, np.arange(2000) % 5 > 0
    worse[1:200:5] = False  # 40 images more are wrong: 2 points, far less than two unpaired intervals can tell
    base = stored(tmp_path / "a", cpu_run(), right)
    head = stored(tmp_path / "b", cpu_run(), worse)
    found = compare(StoredRun(base, cpu_run()), StoredRun(head, cpu_run()), Tolerances())
    by_arm = {change.arm: change for change in found.changes if change.metric == TOP1}
    assert by_arm["vim_nano/r20"].change.value == pytest.approx(-2.0)
    assert by_arm["vim_nano/r20"].outcome == WORSE
    assert by_arm["vim_nano/r5"].outcome == SAME
    assert found.exit_code == 3
    back = compare(StoredRun(head, cpu_run()), StoredRun(base, cpu_run()), Tolerances())
    assert {c.outcome for c in back.changes if c.arm == "vim_nano/r20" and c.metric == TOP1} == {BETTER}


def test_accuracy_on_other_images_is_not_judged(tmp_path: Path) -> None:
    right = np.ones(2000, bool)
    base = stored(tmp_path / "a", cpu_run(), right)
    wrong = right.copy()
    wrong[:500] = False  # what would be WORSE on the same images
    other_labels = stored(tmp_path / "b", cpu_run(), wrong, labels=(np.arange(2000) + 3) % 10)
    other_pixels = stored(tmp_path / "c", cpu_run(), wrong, pixels=1)  # the same names and labels
    for head in (other_labels, other_pixels):
        found = compare(StoredRun(base, cpu_run()), StoredRun(head, cpu_run()), Tolerances())
        assert {(c.outcome, c.detail) for c in found.changes if c.metric == TOP1} == {(REFUSED, OTHER_IMAGES)}
        assert any("images differ" in note for note in found.notes)
        assert (found.outcome, found.exit_code) == (SAME, 0)  # of the speeds


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


def test_a_merged_run_is_compared_by_the_runs_it_was_merged_from(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its own record has no stack and no preset, and calls its processor by its host."""
    there = {**cpu_run().environment, "host": "alpha"}
    first, second = (replace(scaled(cpu_run(), 1.0), run_id=name, environment=there) for name in ("a", "b"))
    for run in (first, replace(second, environment={**there, "python": "3.13", "host": "beta"})):
        save(run, tmp_path / run.run_id)
        assert main(["merge", str(tmp_path / run.run_id), "--out", str(tmp_path / f"{run.run_id} merged")]) == 0
    capsys.readouterr()
    main(["compare", str(tmp_path / "a"), str(tmp_path / "a merged")])
    assert "note" not in capsys.readouterr().out
    main(["compare", str(tmp_path / "a merged"), str(tmp_path / "b merged")])
    shown = " ".join(capsys.readouterr().out.split())
    assert "None" not in shown
    assert "two machines with a processor of one kind: cpu@alpha against cpu@beta" in shown
    assert "python 3.12 against 3.13" in shown
