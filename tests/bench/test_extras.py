"""What a run can measure beside its main table: batch sweep, latency, both inputs, the paper's protocol, many GPUs at once."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sample_runs
import torch
from bench_harness import Heard, controls, sim_plan
from made_images import write_grey_folders

from rmeeto_bench.bench.plan.estimate import true_seconds
from rmeeto_bench.bench.plan.plan import SIZES, BenchPlan, cells, protocol_for
from rmeeto_bench.bench.plan.require import require
from rmeeto_bench.bench.run.devices import device_record
from rmeeto_bench.bench.run.processes import death, worker_environment
from rmeeto_bench.bench.run.runner import run
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.bench.session.equivalence import equivalent, verdict
from rmeeto_bench.bench.session.fed import Parts
from rmeeto_bench.bench.session.latency import single_steps
from rmeeto_bench.bench.session.sweep import measure_sweep
from rmeeto_bench.bench.session.trace import expected
from rmeeto_bench.bench.session.workload import ModelWorkload
from rmeeto_bench.bench.summary.arm_records import percentiles
from rmeeto_bench.bench.summary.record import knee, spread_arms
from rmeeto_bench.cost.roofline import limit
from rmeeto_bench.cost.traffic import model_operations
from rmeeto_bench.cpus import quota
from rmeeto_bench.errors import DataError, MeasurementError, UsageError
from rmeeto_bench.measure.devices.device import find_devices
from rmeeto_bench.measure.devices.simulated import SimDevice
from rmeeto_bench.measure.protocol import QUICK, Watch
from rmeeto_bench.models.sizes import config
from rmeeto_bench.profiles import load_profiles, profile_named
from rmeeto_bench.records.run import DeviceRecord, RunRecord, require_measured
from rmeeto_bench.report.run.summary import sentences


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    plan = sim_plan("rtx4090,h100-sxm", preset="quick", rs=(0, 5, 20), inputs="both", sweep=True, paper_mode=True, energy=True)
    record = run(plan, tmp_path_factory.mktemp("all") / "run", controls())
    assert record.status == "complete"
    return record


def test_merging_little_is_slower_than_not_merging_on_every_simulated_gpu() -> None:
    for profile in load_profiles():
        if profile.fp16_tflops:
            baseline, low, high = (true_seconds(cell, profile, 128) for cell in cells(sim_plan(rs=(0, 5, 20)), "vim_small"))
            assert 0.90 < baseline / low < 0.96
            assert 1.3 < baseline / high < 1.6


def test_simulated_results_say_so_and_are_refused_where_measurements_are_meant(everything: RunRecord) -> None:
    assert {arm.verdict for arm in everything.arms} == {"SIMULATED"}
    assert {arm.paper for arm in everything.arms} == {None}
    assert {arm.top1 for arm in everything.arms} == {None}
    with pytest.raises(MeasurementError, match="simulated"):
        require_measured(everything)


def test_simulated_speedups_are_the_true_ones(everything: RunRecord) -> None:
    profile = next(profile for profile in load_profiles() if profile.name == "rtx4090")
    truth = [true_seconds(cell, profile, 128) for cell in cells(sim_plan(rs=(0, 5, 20)), "vim_tiny")]
    found = [arm.speedup.value for arm in everything.arms if arm.device == "sim:rtx4090" and arm.speedup]
    assert found == pytest.approx([truth[0] / value for value in truth], rel=0.005)


def test_the_papers_protocol_stands_beside_ours(everything: RunRecord) -> None:
    for arm in everything.arms:
        assert arm.paper_mode["speedup"] == pytest.approx(arm.speedup.value, rel=0.02)
        assert arm.paper_mode["images_per_second"] == pytest.approx(arm.images_per_second.value, rel=0.02)


def test_every_arm_alone_tells_its_joules_per_image(everything: RunRecord) -> None:
    joules = {(arm.device, arm.r): arm.joules_per_image.value for arm in everything.arms if arm.joules_per_image}
    assert len(joules) == 6
    for device in ("sim:rtx4090", "sim:h100-sxm"):
        power = [
            joules[device, arm.r] * arm.images_per_second.value
            for arm in everything.arms
            if arm.device == device and arm.images_per_second
        ]
        assert power == pytest.approx([power[0]] * 3, rel=0.01)  # the simulated power does not depend on the arm
    assert joules["sim:rtx4090", 20] < joules["sim:rtx4090", 0]
    with pytest.raises(UsageError, match="--energy needs a GPU"):
        run(BenchPlan(gpus="none", energy=True), Path("nowhere"), controls())
    assert not Path("nowhere").exists()


def test_noise_and_images_are_compared_round_by_round(everything: RunRecord) -> None:
    for arm in everything.arms:
        assert arm.noise_speed.low is not None
        assert arm.noise_speed.high is not None
        assert arm.noise_speed.low < 1.002
        assert arm.noise_speed.high > 0.998


def test_a_sweep_has_a_row_for_every_size_and_one_knee_per_arm(everything: RunRecord) -> None:
    assert len(everything.sweep) == 2 * 3 * len(SIZES)
    for device, arm in {(row.device, row.arm) for row in everything.sweep}:
        rows = {row.batch_size: row for row in everything.sweep if (row.device, row.arm) == (device, arm)}
        assert tuple(rows) == SIZES == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
        (chosen,) = [size for size, row in rows.items() if row.knee]
        rates = {size: row.images_per_second.value for size, row in rows.items() if row.images_per_second}
        assert chosen == knee(rates)
        assert chosen > 1


def test_the_knee_is_the_smallest_within_two_per_cent() -> None:
    assert knee({1: 10, 2: 50, 4: 97.9, 8: 98.1, 16: 100, 32: 99}) == 8
    assert knee({1: 10}) == 1
    assert knee({}) is None


def test_a_batch_that_does_not_fit_is_left_out_and_never_made_smaller() -> None:
    profile = next(profile for profile in load_profiles() if profile.name == "rtx4090")
    device, stored = SimDevice(profile, seed=0), []

    def step(arm: str, size: int) -> object:
        if size > 64:
            raise torch.OutOfMemoryError
        return device.step(arm, 0.001 * size)

    result = measure_sweep(device, SimpleNamespace(names=["a"], step=step), QUICK, Watch(stored.append), 0)
    assert result["arms"]["a"]["fitting"] == [1, 2, 4, 8, 16, 32, 64]
    assert {block.arm for block in stored} == {f"a@b{2**i}" for i in range(7)}


def test_batch_1_is_reported_as_latency(tmp_path: Path) -> None:
    record = run(sim_plan(preset="quick", batch_size=1), tmp_path / "run", controls())
    for arm in record.arms:
        assert arm.latency_ms["steps"] >= 200
        assert arm.latency_ms["p50"] == pytest.approx(1000 / arm.images_per_second.value, rel=0.01)
        assert arm.latency_ms["p50"] <= arm.latency_ms["p90"] <= arm.latency_ms["p99"]


def test_percentiles_are_those_of_single_steps() -> None:
    assert percentiles(np.arange(1, 202) / 1000) == pytest.approx({"p50": 101, "p90": 181, "p99": 199, "steps": 201})
    assert percentiles(np.arange(1, 102) / 1000) == pytest.approx({"p50": 51, "p90": 91, "steps": 101})
    assert percentiles([0.5]) == {"p50": 500.0, "steps": 1.0}
    calls: list[str] = []
    device = SimpleNamespace(time_block=lambda step, steps: (step(), (0.0, 0.05))[1])
    found = single_steps(device, {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, lambda: False)
    assert len(found["a"]) == len(found["b"]) >= 200
    slow = single_steps(SimpleNamespace(time_block=lambda step, steps: (0.0, 3.0)), {"a": int, "b": int}, lambda: False)  # type: ignore[arg-type]
    assert {name: sum(seconds) for name, seconds in slow.items()} == {"a": 21.0, "b": 21.0}, "minutes for one arm otherwise"
    mixed = SimpleNamespace(time_block=lambda step, steps: (0.0, step()))
    both = single_steps(mixed, {"slow": lambda: 3.0, "fast": lambda: 0.01}, lambda: False)  # type: ignore[arg-type]
    assert len(both["fast"]) >= 200, "a slow arm does not end the steps of a fast one"
    assert len(both["slow"]) == 7
    assert calls[:40] == ["a"] * 20 + ["b"] * 20


def test_equal_cards_that_differ_are_labelled(everything: RunRecord) -> None:
    twins = tuple(replace(device, name="One Card") for device in everything.devices)
    spread = spread_arms(replace(everything, devices=twins), list(everything.arms))
    assert spread == {(arm.device, arm.arm) for arm in everything.arms}
    assert spread_arms(everything, list(everything.arms)) == set()  # two kinds may differ


def test_equivalence_needs_the_whole_interval_within_the_margin() -> None:
    random = np.random.default_rng(0)
    alone = np.exp(random.normal(0, 0.001, 12))
    assert equivalent(alone, alone * np.exp(random.normal(0, 0.001, 12)))[0]
    assert not equivalent(alone, 1.01 * alone)[0]
    assert not equivalent(alone, alone * np.exp(random.normal(0, 0.05, 12)))[0]  # too noisy to tell
    assert not equivalent(alone, np.full(12, math.nan))[0]
    passed, words = verdict({"A": (alone, alone), "B": (alone, 1.02 * alone)})
    assert not passed
    assert words.startswith("B: blocks last +2.")


def test_gpus_that_do_not_disturb_each_other_are_measured_together(tmp_path: Path) -> None:
    listening = controls()
    record = run(sim_plan("rtx4090,h100-sxm", preset="quick", schedule="parallel"), tmp_path / "run", listening)
    heard = listening.tell
    assert isinstance(heard, Heard)
    assert [note for note in heard.notes if "measuring all together" in note]
    assert {arm.verdict for arm in record.arms} == {"SIMULATED"}
    assert {arm.device for arm in record.arms} == {"sim:rtx4090", "sim:h100-sxm"}


def test_gpus_that_disturb_each_other_are_measured_one_after_the_other(tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    busy.mkdir()

    def coupled(job: Job) -> None:
        time_block = SimDevice.time_block

        def slower_in_company(self: SimDevice, step: object, steps: int) -> tuple[float, float]:
            mine = busy / str(os.getpid())
            mine.touch()
            time.sleep(0.05)
            factor = 1.03 if len(list(busy.iterdir())) > 1 else 1.0
            mine.unlink()
            seconds, wall = time_block(self, step, steps)  # type: ignore[arg-type]
            return factor * seconds, factor * wall

        if job.kind == "equivalence":
            SimDevice.time_block = slower_in_company  # type: ignore[method-assign]

    listening = controls(coupled)
    run(sim_plan("rtx4090,h100-sxm", preset="quick", schedule="parallel"), tmp_path / "run", listening)
    assert isinstance(listening.tell, Heard)
    assert [note for note in listening.tell.notes if "measuring one after the other" in note]


def test_a_worker_sees_only_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for name in ("OMP_NUM_THREADS", "OMP_PROC_BIND", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    values = worker_environment("cuda:1234-5678", "timing")
    assert (values["CUDA_VISIBLE_DEVICES"], values["OMP_NUM_THREADS"]) == ("GPU-1234-5678", "1")
    assert "OMP_NUM_THREADS" not in worker_environment("cuda:1234-5678", "accuracy")
    on_cpu = worker_environment("cpu", "timing")
    assert (on_cpu["CUDA_VISIBLE_DEVICES"], on_cpu["OMP_PROC_BIND"]) == ("0,1", "true")
    assert "OMP_PROC_BIND" not in worker_environment("cpu", "accuracy"), "its readers would inherit one core"
    assert int(on_cpu["GOMP_SPINCOUNT"]) == int(worker_environment("cpu", "accuracy")["GOMP_SPINCOUNT"]) > 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-abc")
    assert worker_environment("cuda:1234-5678", "timing")["CUDA_VISIBLE_DEVICES"] == "MIG-abc"


def test_workers_have_no_more_threads_than_the_quota_of_their_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("rmeeto_bench.cpus.affinity", lambda: 16)
    monkeypatch.setattr("rmeeto_bench.bench.run.processes.affinity", lambda: 16)
    for share, threads in ((2.5, "2"), (0.5, "1"), (64.0, None), (None, None)):
        monkeypatch.setattr("rmeeto_bench.cpus._quota", lambda share=share: share)
        for kind in ("timing", "accuracy"):
            assert worker_environment("cpu", kind).get("OMP_NUM_THREADS") == threads
    monkeypatch.setattr("rmeeto_bench.cpus._quota", lambda: 2.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert worker_environment("cpu", "timing")["OMP_NUM_THREADS"] == "7", "who sets it means it"


def test_quotas_are_read_from_both_versions_of_control_groups(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    inner = tmp_path / "two" / "slice" / "job"
    inner.mkdir(parents=True)
    membership.write_text("0::/slice/job\n")
    assert quota(tmp_path / "two", membership) is None
    (inner / "cpu.max").write_text("max 100000\n")
    assert quota(tmp_path / "two", membership) is None
    (inner.parent / "cpu.max").write_text("150000 100000\n")  # the limit of the group above holds, too
    assert quota(tmp_path / "two", membership) == 1.5
    (inner / "cpu.max").write_text("nonsense\n")
    assert quota(tmp_path / "two", membership) == 1.5
    old = tmp_path / "one" / "cpu,cpuacct" / "docker"
    old.mkdir(parents=True)
    membership.write_text("5:memory:/docker\n4:cpu,cpuacct:/docker\n")
    for name, value in (("quota", "400000"), ("period", "200000")):
        (old / f"cpu.cfs_{name}_us").write_text(value + "\n")
    assert quota(tmp_path / "one", membership) == 2.0
    (old / "cpu.cfs_quota_us").write_text("-1\n")
    assert quota(tmp_path / "one", membership) is None
    assert quota(tmp_path / "one", tmp_path / "no such file") is None


def test_deaths_are_told_in_one_line() -> None:
    assert "SIGKILL, by hand or for lack of memory" in death(-9, [])
    assert "SIGSEGV: a crash in native code" in death(-11, [])
    assert death(1, ["Traceback\n", "RuntimeError: CUDA error: unknown\n", "\n"]).endswith("RuntimeError: CUDA error: unknown")


def test_a_cpus_sessions_share_the_time_of_one() -> None:
    on_gpu, on_cpu = (protocol_for(BenchPlan(), kind) for kind in ("cuda", "cpu"))
    assert on_cpu.sessions == on_gpu.sessions == 6
    assert on_cpu.sessions * on_cpu.time_limit <= on_gpu.time_limit
    assert on_cpu.warmup_seconds < on_cpu.warmup_limit < 10
    alone = protocol_for(BenchPlan(preset="sustained"), "cpu")
    assert alone.warmup_limit >= alone.warmup_seconds >= 60
    assert find_devices("none")[0].kind == "cpu"


def test_a_trace_shows_the_limit_of_every_kernel_and_refuses_a_device_without_operations(tmp_path: Path) -> None:
    (h100,) = find_devices("sim:h100-sxm")
    (cell,) = cells(BenchPlan(models=("vim_small",), rs=(0,)), "vim_small")
    lines = expected(h100, cell, 128)
    whole = limit(model_operations(config("vim_small"), cell.reduction, 128, "fused"), profile_named("h100-sxm"))
    assert f"at least {1e3 * whole.seconds:.3f} ms" in lines[0]
    shown = [float(line.split("|")[3]) for line in lines[3:-1]]
    assert sum(shown) == pytest.approx(1e3 * whole.seconds, abs=0.01)
    assert shown == sorted(shown, reverse=True)
    (cpu,) = find_devices("none")
    assert "not known" in "".join(expected(cpu, cell, 128)) or "No limit" in "".join(expected(cpu, cell, 128))
    for words in ({"trace": True}, {"fed": True}):
        with pytest.raises(UsageError, match="leave --trace and --fed out"):
            run(BenchPlan(gpus="sim:v100", **words), tmp_path / "run", controls())  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no images for vim_tiny ship"):
        run(BenchPlan(models=("vim_tiny",), gpus="none", fed=True), tmp_path / "run", controls())
    both = require(BenchPlan(models=("vim_nano", "vim_tiny"), gpus="none", fed=True, together=True), (device_record(cpu),))
    assert len(both) == 2, "what has images is fed; the others are timed beside it"


def test_images_of_any_classes_feed_a_model_that_nobody_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_grey_folders(tmp_path, {"cat": 1, "dog": 2, "none in val": 3})
    words = {"gpus": "none", "data": tmp_path / "val", "rs": (0,), "batch_size": 4, "fed": True}
    (cpu,) = find_devices("none")
    plan = BenchPlan(checkpoints="none", **words)  # type: ignore[arg-type]
    (resolved,) = require(plan, (device_record(cpu),)).values()
    workload = ModelWorkload(plan, cpu, [resolved])
    ((data, arms),) = workload.fed()
    passes = Parts(workload, data).all_of(arms)
    assert passes["vim_nano/r0 alone"]() > 12, "a pass over a small set lasts a second, or it is never warm"
    monkeypatch.setattr("rmeeto_bench.bench.session.fed.LEAST", 0.0)
    assert {name: once() for name, once in passes.items()} == dict.fromkeys(passes, 12)
    eight = ModelWorkload(replace(plan, batch_size=8), cpu, [resolved])
    passes_of_eight = Parts(eight, data).all_of(arms)
    assert {once() for once in passes_of_eight.values()} == {8}, "the four that are left would run through another program"
    monkeypatch.setattr("rmeeto_bench.bench.session.fed.SECONDS", 0.0)
    assert {name: once() for name, once in passes.items()} == dict.fromkeys(passes, 4), "a pass over more images ends in time"
    assert (len(data), [arm.cell.name for arm in arms]) == (12, ["vim_nano/r0"])
    with pytest.raises(DataError, match="2 class folders, the model 10"):
        require(BenchPlan(checkpoints="bundled", **words), (device_record(cpu),))  # type: ignore[arg-type]


def test_a_training_step_trains_and_its_epoch_is_projected() -> None:
    """Weights move, memory of the optimizer stays, and the projection is arithmetic on the rate."""
    plan = BenchPlan(models=("vim_nano",), rs=(0, 11), gpus="none", batch_size=2, what="train", inputs="random")
    (cpu,) = find_devices("none")
    workload = ModelWorkload(plan, cpu, list(require(plan, (device_record(cpu),)).values()))
    before = workload.built["vim_nano/r11"].model.state_dict()["layers.0.mixer.in_proj.weight"].clone()
    losses = [float(workload.step("vim_nano/r11", 2)()) for _ in range(3)]
    assert all(0 < loss < 20 for loss in losses)
    assert not torch.equal(before, workload.built["vim_nano/r11"].model.state_dict()["layers.0.mixer.in_proj.weight"])
    assert workload.evaluations() == []
    gpu = DeviceRecord("cuda:x", "Some GPU", "cuda")
    arms = [replace(arm, what="train", top1=None) for arm in sample_runs.arms(gpu.id, "vim_small", {0: 1000.0, 11: 2000.0})]
    text = " ".join(sentences(sample_runs.record((gpu,), tuple(arms))))
    assert "would take 21.4, 10.7 min at ratio 0.00, 0.31" in text
    assert "25.2 min on 1x8xH100" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"accuracy_only": True}, "leave out --accuracy-only"),
        ({"inputs": "both"}, "leave out --arm, timm: and --inputs both"),
        ({"models": ("timm:resnet18",)}, "leave out --arm, timm: and --inputs both"),
        ({"gpus": "sim:v100"}, "a simulated device trains nothing"),
    ],
)
def test_what_cannot_be_trained_is_refused(words: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        run(BenchPlan(**{"gpus": "none", "what": "train", **words}), tmp_path / "run", controls())  # type: ignore[arg-type]
