"""Arms of several models in the same rounds: one table over one baseline, and what is said of the front."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_harness import Heard, controls, sim_plan
from fresh import commands

from rmeeto_bench.bench.plan.plan import BenchPlan, group_cells
from rmeeto_bench.bench.run.runner import resume, run
from rmeeto_bench.bench.summary.tradeoff import with_beaten
from rmeeto_bench.errors import UsageError
from rmeeto_bench.records.run import Arm, Estimate, load
from rmeeto_bench.report.run.export import gab
from rmeeto_bench.report.run.front import compared, front_by_values

SIMULATED = "run --device sim --gpus v100 --model vim_tiny,deit_tiny --r 0,11 --together --quick --seed 3"


def arms(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["arms"]
    return found


def test_a_run_of_several_models_through_every_command(tmp_path: Path) -> None:
    lines = [
        f"{SIMULATED} --out a",
        "run --device sim --gpus v100 --model vim_tiny --r 0,11 --quick --seed 3 --out alone",
        f"{SIMULATED} --baseline deit_tiny --out b",
        "ls .",
        "show a --rounds",
        "report a",
        "resume a",
        "rerun a --out again",
        "compare a again --explain",
        "compare a b --explain",
        "merge a alone --out merged",
        "show merged",
        f"fleet --engine local --kinds v100 --out fleet {SIMULATED.partition('v100 ')[2]} --device sim",
    ]
    done = dict(zip(lines, commands(*(line.split() for line in lines), cwd=tmp_path), strict=True))
    for line, one in done.items():
        assert one.code in (0, 5), (line, one.err)  # 5: simulated runs are shown beside each other, not judged
    names = ["vim_tiny/r0", "vim_tiny/r11", "deit_tiny/r0", "deit_tiny/r11"]
    mine = arms(tmp_path / "a")
    assert [arm["arm"] for arm in mine] == names
    assert {arm["baseline"] for arm in mine} == {"vim_tiny/r0"}
    assert {arm["rounds"] for arm in mine} == {mine[0]["rounds"]}
    assert mine[2]["speedup"]["value"] == pytest.approx(
        mine[2]["images_per_second"]["value"] / mine[0]["images_per_second"]["value"], rel=0.02
    )
    assert [arm["arm"] for arm in arms(tmp_path / "b")] == ["deit_tiny/r0", "vim_tiny/r0", "vim_tiny/r11", "deit_tiny/r11"]
    assert [arm["speedup"] for arm in arms(tmp_path / "again")] == [arm["speedup"] for arm in mine]
    assert done["show a --rounds"].out.count("2 models over vim_tiny/r0") == 1
    assert "who is faster is not resolved" in done[lines[0]].out
    assert not any("speed-up" in line and "FASTER" in line for line in done["compare a b --explain"].out.splitlines())
    assert "baseline vim_tiny/r0 aga" in done["compare a b --explain"].out.replace("\n", " ")
    merged = load(tmp_path / "merged")
    assert {arm.arm for arm in merged.arms} == set(names)
    exported = [entry["name"] for entry in json.loads(gab(load(tmp_path / "a")))]
    assert sum(name.endswith("speedup") for name in exported) == 3
    assert {arm["arm"] for arm in arms(tmp_path / "fleet")} == set(names)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    lines = [
        f"{SIMULATED} --baseline vim_small/r0",
        "run --device sim --model vim_tiny --baseline vim_tiny/r0",
        "run --gpus none --model vim_nano,deit_tiny --together --data . --r 0",
    ]
    said = ["choose vim_tiny/r0, vim_tiny/r11, deit_tiny/r0", "give --together", "vim_nano 10, deit_tiny 1000"]
    for done, words in zip(commands(*(line.split() for line in lines), cwd=tmp_path), said, strict=True):
        assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
        assert words in done.err
    assert not (tmp_path / "runs").exists()


def test_a_baseline_may_be_named_without_its_r() -> None:
    plan = BenchPlan(models=("vim_tiny", "deit_tiny"), rs=(0, 5), together=True, baseline="deit_tiny")
    assert next(cell.name for cell in group_cells(plan, "vim_tiny+deit_tiny")) == "deit_tiny/r0"
    with pytest.raises(UsageError, match="is no arm of this run"):
        group_cells(replace(plan, baseline="deit_tiny/r7"), "vim_tiny+deit_tiny")


def front_of(rates: list[float], accuracies: list[float], sessions: int = 5) -> list[Arm]:
    """Arms of these images/s and shares of right answers, judged as a run of this many sessions is."""
    random = np.random.default_rng(0)
    draws = random.random(2000)
    names = [f"m{i}/r0" for i in range(len(rates))]
    times = [{n: list((1 + random.normal(0, 0.002, 8)) / rate) for n, rate in zip(names, rates)} for _ in range(sessions)]
    correct = {name: draws < share for name, share in zip(names, accuracies)}
    blank = Arm("cpu", "", "", 0, 0.0, 0.0, (197,), 197, "fp32", "native", 4, "baseline")
    rows = [
        replace(
            *(blank,),
            **{"arm": name, "model": name[:2], "baseline": names[0], "rounds": 8 * sessions, "sessions": sessions},
            **{"images_per_second": Estimate(rate), "top1": Estimate(100 * share)},
            speedup=Estimate(rate / rates[0], 0.99 * rate / rates[0], 1.01 * rate / rates[0]),
        )
        for name, rate, share in zip(names, rates, accuracies)
    ]
    return with_beaten(rows, times, correct)


def test_the_front_is_what_no_other_arm_is_shown_to_reach() -> None:
    found = front_of([100.0, 200.0, 90.0], [0.9, 0.7, 0.6])
    assert [(arm.front_p or 0.0) < 0.05 for arm in found] == [True, True, False]
    assert [(arm.beaten_p or 0.0) < 0.05 for arm in found] == [False, False, True]
    assert [arm.model for arm in front_by_values(found)] == ["m1", "m0"]
    assert compared(found)[0] == "on the front of speed and accuracy: m0/r0, m1/r0; behind it: m2/r0"


def test_arms_that_are_alike_are_not_resolved() -> None:
    found = front_of([100.0, 100.0], [0.9, 0.9])
    assert compared(found)[0] == "no arm is shown to be on the front; not resolved: m0/r0, m1/r0"
    few = compared(front_of([100.0, 200.0], [0.9, 0.7], sessions=2))
    assert few[0].startswith(
        "who is faster, and who is on the front of speed and accuracy, is not resolved, as that takes three"
    )
    assert few[0].endswith("by the values alone the front is m1/r0, m0/r0")


def test_a_run_cut_short_goes_on_with_all_its_models(tmp_path: Path) -> None:
    told = Heard()
    plan = sim_plan(models=("vim_tiny", "deit_tiny"), together=True, baseline="deit_tiny")
    cut = run(plan, tmp_path, controls(tell=told, should_stop=lambda: len(told.stages) > 3))
    assert cut.status == "interrupted"
    whole = resume(tmp_path, controls())
    assert whole.status == "complete"
    assert whole.arms[0].arm == "deit_tiny/r0"
    assert {(arm.sessions, arm.rounds, arm.baseline) for arm in whole.arms} == {(6, 48, "deit_tiny/r0")}
