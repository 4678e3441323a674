"""The first minute on a GPU, without one: each command in a fresh process, on stand-in GPUs inside of torch (`stand_in/`).

Everything runs as it would on a card, but for the list at the end of this file: discovery, one worker a GPU by its UUID,
warm-up, events, CUDA graphs, telemetry, steps at batch 1, the sweep, energy, the paper's protocol, accuracy in half precision
with an odd last batch, training, gpu_check, and what may be wrong with a machine. What the kernels are tested against
computes where the triton kernels are not the question (STAND_IN_LAUNCHES).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gpus import GPUS, HERE, IDS, NAME, SLICE, on_gpus, variables

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.records.run import load

TINY = ("--model", "vim_nano_8", "--r", "0,1", "--gpus")  # 17 tokens
SMALL = ("--quick", "--batch-size", 3, "--inputs", "random", "--images", 3)
LARGE = ("--quick", "--batch-size", 64, "--inputs", "random", "--images", 3)


def check_run(folder: Path) -> None:
    """Both GPUs measured everything, through graphs and in half precision, with their telemetry."""
    record = load(folder)
    assert record.status == "complete"
    assert [device.id for device in record.devices] == list(IDS)
    assert record.devices[0].profile == "h100-sxm"
    for arm in record.arms:
        assert (arm.precision, arm.backend, arm.batch_size, arm.n_images) == ("fp16", "triton", 3, 10)
        assert "cuda-graph" in arm.labels
        assert arm.verdict == "EXPLORATORY"
        assert arm.peak_memory_mib == pytest.approx(512)
        assert arm.images_per_second is not None
        assert arm.top1 is not None
        assert arm.top1.value == pytest.approx(30)  # as on a CPU: a graph that forgot an operation gives 10
    assert record.arms[1].speedup is not None
    with Store.open(folder) as store:
        blocks = store.blocks(record.devices[0].id)
    assert {block.telemetry["sm_mhz_mean"] for block in blocks} == {1755}
    assert {block.telemetry["temperature_c"] for block in blocks} == {61}
    assert all(block.telemetry["energy_j"] > 0 for block in blocks)
    assert not any(block.telemetry["foreign_pids"] for block in blocks)
    assert sum(abs(block.wall_seconds - block.seconds) < 0.02 * block.wall_seconds for block in blocks) > len(blocks) / 2


def test_a_gpu_that_falls_off_the_bus_ends_neither_the_run_nor_the_other_gpu_and_resume_measures_it(place: Path) -> None:
    run = [*TINY, "all", "--quick", "--batch-size", 3, "--data", "data/train", "--images", 10, "--out", "run"]
    first = on_gpus(place, *run, STAND_IN_FAULT=f"bus:{GPUS[1]}", STAND_IN_LAUNCHES="1")
    assert first.code == 6, first
    (lost,) = [line for line in first.err.splitlines() if line.startswith("lost: ")]
    assert f"({IDS[1]})" in lost
    assert "CUDA error: unspecified launch failure" in lost
    second = on_gpus(place, "resume", "run")
    assert second.code == 0, second
    check_run(place / "run")
    for gpu in GPUS:  # two of one name are told apart, in tables and while they work
        assert f"{NAME} ({gpu[:12]}) · vim_nano_8 · fp16" in second.out
    assert f"{NAME} ({GPUS[1][:12]}) vim_nano_8 accuracy" in second.err
    given = on_gpus(place, "contribute", "run")
    assert given.code == 2, given
    assert "ran its kernels in Triton's interpreter" in given.err  # no stand-in is ever taken for a card


def test_a_slice_of_a_gpu_is_found_by_its_uuid_and_measured_with_single_steps_energy_and_the_paper_s_protocol(
    place: Path,
) -> None:
    flags = ["--quick", "--batch-size", 1, "--inputs", "random", "--images", 3, "--energy", "--paper-mode", "--out", "slice"]
    words = ["--model", "vim_nano_4", "--r", 0, "--gpus", SLICE, *flags]
    done = on_gpus(place, *words, STAND_IN_GPUS=SLICE, CUDA_VISIBLE_DEVICES=SLICE)
    assert done.code == 0, done
    record = load(place / "slice")
    (device,), (arm,) = record.devices, record.arms
    assert device.id == f"cuda:{SLICE}"
    assert "MIG" in arm.labels
    assert arm.latency_ms
    assert arm.latency_ms["p50"] > 0  # time runs forty times as fast, so there are seldom the 200 steps of a p99
    assert arm.paper_mode
    with Store.open(place / "slice") as store:
        (session,) = store.sessions(device.id, kind="energy")
    ((energy,),) = [list(session.result["energy"].values())]
    assert energy["joules"] or "without a break" in energy["reason"]  # where other programs held up the first step


def test_a_card_with_a_large_cache_takes_a_batch_in_parts_says_so_and_answers_as_in_one(place: Path) -> None:
    run = [*TINY, GPUS[0], "--quick", "--batch-size", 16, "--data", "data/train", "--images", 16, "--out"]
    for name, card in (("parts", {"STAND_IN_CAPABILITY": "8.9", "STAND_IN_SMALL": "1"}), ("whole", {})):
        done = on_gpus(place, *run, name, **card)
        assert done.code == 0, done
    parts, whole = load(place / "parts"), load(place / "whole")
    assert ["cuda-graph in 3 parts" in arm.labels for arm in parts.arms] == [True, True]
    assert ["cuda-graph" in arm.labels for arm in whole.arms] == [True, True]
    assert [arm.token_counts for arm in parts.arms] == [arm.token_counts for arm in whole.arms]
    assert [arm.top1 for arm in parts.arms] == [arm.top1 for arm in whole.arms]


def test_the_sweep_leaves_out_the_sizes_that_do_not_fit_into_memory(place: Path) -> None:
    words = ["--model", "vim_nano_4", "--r", 0, "--gpus", GPUS[1], "--quick", "--batch-size", "sweep"]
    words += ["--inputs", "random", "--images", 3, "--out", "sweep"]
    done = on_gpus(place, *words, STAND_IN_MEMORY="400000")
    assert done.code == 0, done
    record = load(place / "sweep")
    assert [device.id for device in record.devices] == [IDS[1]]
    rates = {point.batch_size: point.images_per_second for point in record.sweep}
    assert rates[128] is not None
    assert rates[512] is None


BAD = {  # what is wrong: (variables, command, what the one line says)
    "memory": ({"STAND_IN_MEMORY": "100000"}, [*TINY, "0", *LARGE], 5, ""),
    "driver": ({"STAND_IN_FAULT": "driver"}, [*TINY, "0", *SMALL], 6, "NVIDIA driver on your system is too old"),
    "compiler": ({"STAND_IN_FAULT": "compiler"}, [*TINY, "0", *SMALL, "--backend", "triton"], 6, "PassManager::run failed"),
    "shared": ({"STAND_IN_FAULT": "shared"}, [*TINY, "0", *SMALL], 6, "shared memory, Required: 262144"),
    "old card": (
        {"STAND_IN_CAPABILITY": "6.1"},
        [*TINY, "0", *SMALL, "--backend", "triton"],
        6,
        "the triton kernels need compute capability 7.0, this GPU has 6.1",
    ),
    "index": ({}, [*TINY, "2", *SMALL], 6, f"there are 0 ({NAME}), 1 ({NAME})"),
    "none visible": ({"CUDA_VISIBLE_DEVICES": ""}, [*TINY, "0", *SMALL], 6, "none is visible; look at CUDA_VISIBLE_DEVICES"),
    "hidden": ({"CUDA_VISIBLE_DEVICES": GPUS[1]}, [*TINY, GPUS[0], *SMALL], 6, f"no GPU {GPUS[0]}: there are 0 (NVIDIA"),
}


def test_what_a_machine_lacks_is_one_line_and_the_exit_code_of_a_machine(place: Path) -> None:
    told = on_gpus(place, "doctor", STAND_IN_CAPABILITY="6.1")
    assert told.code == 0, told
    assert "the triton kernels need compute capability 7.0, this GPU has 6.1" in told.out
    assert re.search(r"kernels for vim_small: .*chunked", told.out)
    assert "compute_pids" not in told.out, "it is the only program on this GPU"
    for name, (own, words, code, says) in BAD.items():
        done = on_gpus(place, *words, "--out", name, **own)
        lines = done.lines("rmeeto-bench: ")
        assert done.code == code, (name, done)
        assert says in done.err, (name, done)
        assert "Traceback" not in done.err
        if code == 6:
            assert len(lines) == 1, (name, done)
            assert done.err.rstrip().endswith(lines[0]), (name, done)
        else:
            assert "does not fit into memory at batch 64" in done.err
    assert {arm.verdict for arm in load(place / "memory").arms} == {"OOM"}


def test_training_runs_on_the_kernels_forward_and_backward(place: Path) -> None:
    flags = ["--epochs", 1, "--batch-size", 32, "--workers", 0, "--set", "img_size=8", "--set", "augmentation.crop=none"]
    words = ["retrain", "--model", "vim_nano", "-r", 1, "--data", "data", "--out", "trained", *flags]
    done = on_gpus(place, *words, STAND_IN_LAUNCHES="1")
    assert done.code == 0, done
    assert "vim_nano trains on triton kernels" in done.err
    assert (place / "trained" / "vim_nano_r1.safetensors").is_file()


def test_gpu_check_runs_through_and_sets_every_kernel_beside_its_prediction(place: Path) -> None:
    command = [sys.executable, HERE.parents[1] / "benchmarks" / "gpu_check.py", "--small", "--out", "check.json"]
    done = subprocess.run(command, cwd=place, env=variables(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((place / "check.json").read_text())
    kernels = report["kernels"]
    assert {name for name, row in kernels.items() if row.get("predicted_ms", 0) > 0} == {
        "scan", "conv", "add_norm", "in_proj", "match", "merge"
    }  # fmt: skip
    assert all(row["ms"] > 0 for row in kernels.values())
    assert all(isinstance(report[part], dict) and "failed" not in report[part] for part in report["seconds"])
    assert all(row["graph equals eager"] for row in report["parity"].values())
    assert report["models"]["images_per_second"]["vim_nano"]["5"]["predicted"] > 0
    for row in report["parts"].values():
        assert set(row["images_per_second"]) == set(row["predicted"]) == {"1", "2"}
        assert row["quickest"] in row["images_per_second"]
        assert row["chosen"] == "1"


# Not rehearsed: NCCL, several processes on one GPU, Ray and Slurm with GPUs; real times, real kernels at full size, how a
# driver spells its errors, what a profiler sees on the device, torch's own kernels in half precision.
# What of torch.cuda the package names and the stand-in does not answer: kinds of error, and several machines.
UNREHEARSED = {"OutOfMemoryError", "amp"}


def test_the_stand_in_answers_whatever_the_package_asks_of_a_gpu() -> None:
    package = HERE.parents[1] / "rmeeto_bench"
    asked = {name for path in package.rglob("*.py") for name in re.findall(r"torch\.cuda\.(\w+)", path.read_text())}
    answered = set(re.findall(r'^        "(\w+)":', (HERE / "stand_in" / "stand_in_gpu.py").read_text(), re.MULTILINE))
    assert asked - answered <= UNREHEARSED, asked - answered - UNREHEARSED
