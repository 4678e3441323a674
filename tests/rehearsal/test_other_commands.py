"""What else a person does with a new GPU, on stand-ins: gate, calibrate, eval, fleet, several GPUs at once, other models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fresh import Done
from gpus import GPUS, HERE, IDS, NAME, forked, on_gpus, variables
from programs import program

from rmeeto_bench.records.run import load

ONE = ("--model", "vim_nano_8", "--r", 0, "--gpus")  # 17 tokens
SMALL = ("--quick", "--batch-size", 3, "--inputs", "random", "--images", 3)
STEADY = """
import random
block = CudaDevice.time_block


def steady(self, step, steps):
    block(self, step, 1)
    seconds = random.uniform(0.999, 1.001) * steps * {seconds}
    return seconds, seconds


CudaDevice.time_block = steady
"""
LOST = f"""
import os
os.environ["STAND_IN_FAULT"] = "bus:{GPUS[1]}"
"""
TOLERANT = """
equivalent.__defaults__ = (9.0,)  # on a shared processor no block is as fast as the next
"""
OWN = """
import torch

def make():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""


def side(folder: Path, changes: dict[str, str]) -> Path:
    """A side of a gate. It finds nothing but itself, so the stand-in lies in it."""
    program(folder, changes)
    for part in (HERE / "stand_in").glob("*.*"):
        (folder / part.name).symlink_to(part)
    return folder


def test_a_gate_passes_the_same_program_fails_a_slower_one_and_says_so_if_the_gpu_is_lost(place: Path) -> None:
    base, slow = (side(place / f"{step}", {"measure/devices/cuda.py": STEADY.format(seconds=step)}) for step in (0.01, 0.011))
    lost = side(place / "lost", {"__init__.py": LOST})
    flags = ["--gpus", 1, "--model", "vim_nano_8", "--r", 0, "--batch-size", 2, "--data", "data/train", "--images", 10]
    flags += ["--margin", "2%", "--top1-margin", 50, "--pairs", 2]

    def gate(head: Path) -> Done:
        return on_gpus(place, "gate", "--base", base, "--head", head, *flags, "--out", f"gate_{head.name}")

    passed = gate(base)
    assert passed.code == 0, passed
    assert "PASS: 3 quantities" in passed.out
    runs = [load(manifest.parent) for manifest in (place / "gate_0.01").rglob("manifest.json")]
    assert len(runs) == 4
    assert {device.id for run in runs for device in run.devices} == {IDS[1]}
    failed = gate(slow)
    assert failed.code == 3, failed
    gone = gate(lost)
    assert gone.code == 6, gone
    (line,) = gone.lines("rmeeto-bench: ")
    assert line.startswith(f"rmeeto-bench: {lost} cannot be measured here: lost: {NAME} ({IDS[1]})")
    assert load(place / "gate_lost" / "base-1").status == "complete"  # what was measured is kept


def test_calibrate_finds_the_noise_of_a_gpu(place: Path) -> None:
    flags = ["--model", "vim_nano_8", "--batch-size", 2, "--processes", 4, "--rounds", 6, "--block-seconds", 0.1]
    done = on_gpus(place, "calibrate", "--gpus", 0, *flags, "--out", "noise")
    assert done.code == 0, done
    assert f"{NAME}: 4 processes, 24 rounds" in done.out
    lost = on_gpus(place, "calibrate", "--gpus", 1, *flags, "--out", "noise", STAND_IN_FAULT=f"bus:{GPUS[1]}")
    assert lost.code == 6, lost
    assert len(lost.lines("rmeeto-bench: ")) == 1


def test_two_gpus_are_measured_at_once_where_each_is_as_fast_as_alone(place: Path) -> None:
    program(place / "tolerant", {"bench/session/equivalence.py": TOLERANT})
    both = f"{place / 'tolerant'}:{HERE / 'stand_in'}"
    words = [*ONE, "all", *SMALL, "--schedule", "parallel"]
    done = on_gpus(place, *words, "--out", "parallel", PYTHONPATH=both)
    assert done.code == 0, done
    assert "2 devices are as fast together as alone, within ±0.5 %: measuring all together" in done.err
    assert {(arm.device, arm.images_per_second is not None) for arm in load(place / "parallel").arms} == {
        (one, True) for one in IDS
    }
    lost = on_gpus(place, *words, "--out", "lost", PYTHONPATH=both, STAND_IN_FAULT=f"bus:{GPUS[0]}")
    assert lost.code == 6, lost
    assert f"{NAME} ({GPUS[0][:12]}) does not get ready to be measured together with others" in lost.err
    assert [arm.verdict for arm in load(place / "lost").arms] == ["NOT_MEASURED", "EXPLORATORY"]


def test_the_pipeline_and_a_trace_and_training_are_timed_on_a_gpu(place: Path) -> None:
    words = ["--quick", "--batch-size", 4, "--data", "data/train", "--images", 10, "--workers", 0]
    done = on_gpus(place, *ONE, 1, *words, "--fed", "--trace", "--out", "fed")
    assert done.code == 0, done
    assert load(place / "fed").arms[0].fed
    assert (place / "fed" / "trace" / "vim_nano_8_r0.json.gz").is_file()
    heaviest = (place / "fed" / "trace" / "operations_vim_nano_8.md").read_text()
    assert "The profiler saw no work on the device" in heaviest  # a stand-in has none
    assert "| operation |" not in heaviest
    done = on_gpus(place, *ONE, 1, *SMALL, "--what", "train", "--trace", "--out", "train")
    assert done.code == 0, done
    assert load(place / "train").arms[0].images_per_second
    assert (place / "train" / "trace" / "vim_nano_8_r0.json.gz").is_file()


def test_a_model_of_timm_and_own_code_are_timed_beside_ours_on_a_gpu(place: Path) -> None:
    pytest.importorskip("timm")
    (place / "my_file.py").write_text(OWN)
    words = ["--model", "vim_nano_8,timm:test_vit", "--together", "--arm", "mine=my_file:make", "--r", 0, "--gpus", 1]
    done = on_gpus(place, *words, *SMALL, "--out", "together")
    assert done.code == 0, done
    speeds = {arm.arm: arm.images_per_second for arm in load(place / "together").arms}
    assert set(speeds) == {"vim_nano_8/r0", "timm:test_vit/r0", "mine/r0"}
    assert all(speeds.values()), done


def test_all_gpus_share_an_evaluation_and_a_fleet_of_one_machine_measures_on_each(place: Path) -> None:
    done = on_gpus(place, "eval", *ONE, "all", "--data", "data/train", "--batch-size", 16, "--out", "eval")
    assert done.code == 0, done
    (arm,) = load(place / "eval").arms
    assert (arm.n_images, arm.top1 and arm.top1.value) == (100, pytest.approx(23))
    flags = ["--engine", "local", "--kinds", "h100-sxm", "--model", "vim_nano_8", "--r", 0]
    done = on_gpus(place, "fleet", *flags, *SMALL, "--out", "fleet")
    assert done.code == 0, done
    assert {arm.device for arm in load(place / "fleet").arms} == set(IDS)


def test_two_gpus_train_one_model_together(place: Path) -> None:
    flags = ["--epochs", 1, "--batch-size", 16, "--workers", 0, "--set", "img_size=8", "--set", "augmentation.crop=none"]
    words = ["retrain", "--model", "vim_nano", "-r", 1, "--data", "data", "--out", "trained", *flags]
    torchrun = ["-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "rmeeto_bench"]
    command = [str(word) for word in (sys.executable, *torchrun, *words)]
    done = subprocess.run(command, cwd=place, env=variables(**forked()), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "vim_nano r = 1, 2 x cuda" in done.stderr
    assert (place / "trained" / "vim_nano_r1.safetensors").is_file()


def test_only_visible_gpus_are_there_and_none_is_said_with_its_reason(place: Path) -> None:
    one = on_gpus(place, "doctor", CUDA_VISIBLE_DEVICES=GPUS[1])
    assert f"{IDS[1]}: {NAME}" in one.out
    assert IDS[0] not in one.out
    none = on_gpus(place, "doctor", CUDA_VISIBLE_DEVICES="")
    found = "no GPU that torch can use was found (none is visible; look at CUDA_VISIBLE_DEVICES)"
    assert found in none.out
    planned = on_gpus(place, "--dry-run", CUDA_VISIBLE_DEVICES="")
    assert f"note: {found}: the CPU would be measured" in planned.out
