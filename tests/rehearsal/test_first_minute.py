"""The first minute on a GPU, without one: each command in a fresh process, on stand-in GPUs inside of torch (`stand_in/`).

Everything runs as it would on a card, but for the list at the end of this file: discovery, one worker a GPU by its UUID,
warm-up, events, CUDA graphs, telemetry, steps at batch 1, accuracy in half precision with an odd last batch, memory that runs
out, training.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from made_images import write_grey_folders

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.data.layouts.fashion_mnist import CLASSES
from rmeeto_bench.records.run import load

HERE = Path(__file__).parent
GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-000000000000")
TINY = ("--model", "vim_nano_8", "--r", "0,1", "--gpus")  # 17 tokens


class Said(NamedTuple):
    """How a command ended."""

    # Exit code.
    code: int
    # Standard output and error.
    text: str


def on_gpus(cwd: Path, *words: object, **variables: str) -> Said:
    """A command on a machine with two GPUs."""
    environment = {
        **os.environ,
        "STAND_IN_GPUS": ",".join(GPUS),
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": str(HERE / "stand_in"),
        "COLUMNS": "200",
        **variables,
    }
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    command = [sys.executable, "-P", "-m", "rmeeto_bench", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    return Said(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of all classes, ten each."""
    folder = tmp_path_factory.mktemp("gpu")
    write_grey_folders(folder / "data", {name.replace("/", "_"): label for label, name in enumerate(CLASSES)})
    return folder


def test_a_run_measures_every_gpu_through_graphs_in_half_precision_with_its_telemetry(place: Path) -> None:
    done = on_gpus(place, *TINY, "all", "--quick", "--batch-size", 3, "--data", "data/train", "--images", 10, "--out", "run")
    assert done.code == 0, done.text
    record = load(place / "run")
    assert record.status == "complete"
    assert [device.id for device in record.devices] == [gpu.replace("GPU-", "cuda:") for gpu in GPUS]
    assert record.devices[0].profile == "h100-sxm"
    for arm in record.arms:
        assert (arm.precision, arm.backend, arm.batch_size, arm.n_images) == ("fp16", "triton", 3, 10)
        assert "cuda-graph" in arm.labels
        assert arm.verdict == "EXPLORATORY"
        assert arm.peak_memory_mib == pytest.approx(512)
        assert arm.images_per_second is not None
        assert arm.top1 is not None
    assert record.arms[1].speedup is not None
    with Store.open(place / "run") as store:
        blocks = store.blocks(record.devices[1].id)
    assert {block.telemetry["sm_mhz_mean"] for block in blocks} == {1755}
    assert {block.telemetry["temperature_c"] for block in blocks} == {61}
    assert all(block.telemetry["energy_j"] > 0 for block in blocks)
    assert not any(block.telemetry["foreign_pids"] for block in blocks)
    assert sum(abs(block.wall_seconds - block.seconds) < 0.02 * block.wall_seconds for block in blocks) > len(blocks) / 2


def test_single_steps_are_timed_at_batch_1(place: Path) -> None:
    done = on_gpus(place, *TINY, "1", "--quick", "--batch-size", 1, "--inputs", "random", "--out", "one")
    assert done.code == 0, done.text
    record = load(place / "one")
    assert [device.id for device in record.devices] == [GPUS[1].replace("GPU-", "cuda:")]
    assert all(arm.latency_ms and arm.latency_ms["p99"] >= arm.latency_ms["p50"] > 0 for arm in record.arms)


def test_what_does_not_fit_into_memory_is_reported_and_ends_no_run(place: Path) -> None:
    done = on_gpus(
        place, *TINY, "0", "--quick", "--batch-size", 64, "--inputs", "random", "--out", "full", STAND_IN_MEMORY="100000"
    )
    assert "does not fit into memory at batch 64" in done.text
    assert {arm.verdict for arm in load(place / "full").arms} == {"OOM"}, done.text
    assert done.code == 5


def test_a_card_that_is_too_old_for_the_kernels_is_served_in_torch_and_told_so(place: Path) -> None:
    done = on_gpus(place, "doctor", STAND_IN_CAPABILITY="6.1")
    assert done.code == 0, done.text
    assert "the triton kernels need compute capability 7.0, this GPU has 6.1" in done.text
    assert re.search(r"kernels for vim_small: .*chunked", done.text)


def test_a_gpu_that_is_not_there_is_one_line(place: Path) -> None:
    done = on_gpus(place, *TINY, "2", "--quick", "--out", "none")
    assert done.code == 6
    assert "there are 0 (NVIDIA H100 80GB HBM3), 1 (NVIDIA H100 80GB HBM3)" in done.text
    assert done.text.count("\n") == 1, done.text


def test_training_runs_on_the_kernels_forward_and_backward(place: Path) -> None:
    flags = ("--epochs", 1, "--batch-size", 32, "--workers", 0, "--set", "img_size=8", "--set", "augmentation.crop=none")
    done = on_gpus(place, "retrain", "--model", "vim_nano", "-r", 1, "--data", "data", "--out", "trained", *flags)
    assert done.code == 0, done.text
    assert "vim_nano trains on triton kernels" in done.text
    assert (place / "trained" / "vim_nano_r1.safetensors").is_file()


# What of torch.cuda the package names and the stand-in does not answer: kinds of error, and several machines.
UNREHEARSED = {"OutOfMemoryError", "amp"}


def test_the_stand_in_answers_whatever_the_package_asks_of_a_gpu() -> None:
    package = HERE.parents[1] / "rmeeto_bench"
    asked = {name for path in package.rglob("*.py") for name in re.findall(r"torch\.cuda\.(\w+)", path.read_text())}
    answered = set(re.findall(r'^        "(\w+)":', (HERE / "stand_in" / "stand_in_gpu.py").read_text(), re.MULTILINE))
    assert asked - answered <= UNREHEARSED, asked - answered - UNREHEARSED
