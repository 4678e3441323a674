"""The rows of fleets, of the gate and of calibration: other machines, other programs, other load."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from world import Row, refused

FILES = {"run.sqlite", "manifest.json", "report.html", "table.csv", "table.md", "table.tex"}
DRAWN = {f"speed_accuracy.{end}" for end in ("png", "pdf", "svg")}


def others(count: int, niceness: int, load: float) -> Iterator[Mapping[str, str]]:
    """Other programs compute while the command runs, begun early enough to be seen in the load average."""
    running = [subprocess.Popen(["nice", "-n", str(niceness), "sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        until = time.monotonic() + 60
        while os.getloadavg()[0] < load and time.monotonic() < until:
            time.sleep(0.2)
        yield {}
    finally:
        for one in running:
            one.kill()
            one.wait()


def crowded(root: Path) -> Iterator[Mapping[str, str]]:
    """So many wait that the load average says so within seconds."""
    yield from others(40, 19, 1.5 * (os.cpu_count() or 1))


def busy(root: Path) -> Iterator[Mapping[str, str]]:
    """One takes a core for itself."""
    yield from others(1, 0, 0)


def answering_program(root: Path) -> Iterator[Mapping[str, str]]:
    """A program that answers with a run that is there, and with the words it was told."""
    folder = root / "answers" / "rmeeto_bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text(
        "import json, pathlib, sys\n"
        f"record = json.loads(pathlib.Path({str(root / 'f' / 'manifest.json')!r}).read_text())\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "out.mkdir(parents=True)\n"
        "record |= {'run_id': out.name, 'argv': sys.argv[1:]}\n"
        "record['environment']['git_commit'] = None\n"
        "(out / 'manifest.json').write_text(json.dumps(record))\n",
        encoding="utf-8",
    )
    yield {}


def slurm(root: Path) -> Iterator[Mapping[str, str]]:
    """A Slurm that keeps what is asked of it and refuses it."""
    folder = root / "slurm"
    folder.mkdir()
    (folder / "srun").write_text("#!/bin/sh\n", encoding="utf-8")
    (folder / "sbatch").write_text(
        f'#!/bin/sh\ncp "$1" {folder}/asked\necho "invalid partition" >&2\nexit 1\n', encoding="utf-8"
    )
    for name in ("srun", "sbatch"):
        (folder / name).chmod(0o755)
    yield {"PATH": f"{folder}:{os.environ['PATH']}"}


FLEET = [
    Row(
        "fleet",
        "fleet plan.toml --engine local --kinds cpu --quick --r 0,11 --checkpoints ck --data v --on-error skip --images 12 "
        "--batch-size 4 --fed --out f",
        {
            "--fed": lambda d: all(arm["fed"] for arm in d.arms("f")),
            "plan": lambda d: {arm["model"] for arm in d.arms("f")} == {"vim_nano"},
            "--engine": lambda d: d.warns("2 of 2 cells measured"),
            "--kinds": lambda d: [device["kind"] for device in d.json("f/manifest.json")["devices"]] == ["cpu"],
            "--quick": lambda d: {arm["verdict"] for arm in d.arms("f")} == {"EXPLORATORY"},
            "--r": lambda d: [arm["r"] for arm in d.arms("f")] == [0, 11],  # the flag, not the plan's
            "--checkpoints": lambda d: d.arms("f")[1]["checkpoint_sha256"] == d.sha256("ck/vim_nano_r11.safetensors"),
            "--data": lambda d: d.arms("f")[0]["top1"]["value"] > 80,
            "--on-error": lambda d: {arm["n_images"] for arm in d.arms("f")} <= {11, 12},
            "--images": lambda d: {arm["n_images"] for arm in d.arms("f")} <= {11, 12},
            "--batch-size": lambda d: {arm["batch_size"] for arm in d.arms("f")} == {4},
            "--out": lambda d: d.files("f") >= FILES | DRAWN | {"fleet.json", "cells"},
        },
        needs=("retrain",),
    ),
    Row(
        "fleet that evaluates",
        "fleet --engine local --kinds cpu --model vim_nano --r 0 --accuracy-only --images 12 --out f9",
        {"--accuracy-only": lambda d: [(arm["n_images"], arm["rounds"]) for arm in d.arms("f9")] == [(12, 0)]},
    ),
    Row(
        "fleet of models of others",
        "fleet --engine local --kinds cpu --model vim_nano,timm:test_vit --together --quick --r 0 --images 2 --batch-size 2 "
        "--out f11",
        {"--model": lambda d: {arm["baseline"] for arm in d.arms("f11")} == {"vim_nano/r0"} and len(d.arms("f11")) == 2},
    ),
    refused(
        "fleet of own code", "fleet --engine local --kinds cpu --arm a=toy:full --out f12", "--arm", "not send your own code"
    ),
    refused(
        "fleet at a size that leaves a rest",
        "fleet --engine local --kinds cpu --model vim_nano --img-size 15 --out f10",
        "--img-size",
        "img_size 15 does not fit.*14 or 16",
    ),
    Row(
        "fleet simulated",
        "fleet --engine local --device sim --kinds v100,a4000 --model vim_tiny --ratios 0,0.31 --sustained --seed 4 --together "
        "--paper-mode --baseline vim_tiny/r11 --out f3",
        {
            "--together": lambda d: {len(task["plan"]["models"]) for task in d.json("f3/fleet.json")["tasks"]} == {1},
            "--baseline": lambda d: {arm["baseline"] for arm in d.arms("f3")} == {"vim_tiny/r11"},
            "--device": lambda d: {arm["verdict"] for arm in d.arms("f3")} == {"SIMULATED"},
            "--kinds": lambda d: {device["profile"] for device in d.json("f3/manifest.json")["devices"]} == {"v100", "a4000"},
            "--model": lambda d: {arm["model"] for arm in d.arms("f3")} == {"vim_tiny"},
            "--ratios": lambda d: {arm["ratio_requested"] for arm in d.arms("f3")} == {0, 0.31},
            "--paper-mode": lambda d: all(arm["paper_mode"] for arm in d.arms("f3")),
            "--sustained": lambda d: {arm["rounds"] for arm in d.arms("f3")} == {60},
            "--seed": lambda d: {task["plan"]["seed"] for task in d.json("f3/fleet.json")["tasks"]} == {4},
        },
    ),
    Row(  # No such GPU is here: the task is planned as the flags say, refused, and the fleet says what is missing.
        "fleet of absent GPUs",
        "fleet --engine local --kinds h200 --model vim_tiny --r 0 --labels listed.txt --class-map map.txt --inputs random "
        "--precision bf16 --backend triton --no-graphs --rigorous --what train --energy --ema --out f4",
        {
            "--labels": lambda d: d.task("f4")["labels"].endswith("listed.txt"),
            "--class-map": lambda d: d.task("f4")["class_map"].endswith("map.txt"),
            "--inputs": lambda d: d.task("f4")["inputs"] == "random",
            "--precision": lambda d: d.task("f4")["precision"] == "bf16",
            "--backend": lambda d: d.task("f4")["backend"] == "triton",
            "--no-graphs": lambda d: d.task("f4")["graphs"] is False,
            "--rigorous": lambda d: d.task("f4")["preset"] == "rigorous",
            "--ema": lambda d: d.task("f4")["ema"],
            "--what": lambda d: d.task("f4")["what"] == "train",
            "--energy": lambda d: d.task("f4")["energy"] and d.warns("no GPU h200"),
        },
        code=6,
    ),
    Row(
        "fleet by Slurm",
        "fleet --engine slurm --cluster slurm --partition fast --account money --deadline 2 --kinds v100 --model vim_tiny "
        "--r 0 --compile --out f5",
        {
            "--compile": lambda d: d.task("f5")["models"] == ["vim_tiny", "compile:vim_tiny"],
            "--cluster": lambda d: d.warns("sbatch refused gres gpu:v100"),
            "--partition": lambda d: "--partition=fast" in d.text("slurm/asked"),
            "--account": lambda d: "--account=money" in d.text("slurm/asked"),
            "--deadline": lambda d: "--time=120" in d.text("slurm/asked"),
        },
        code=6,
        prepare=slurm,
    ),
    Row(  # Ray is not here: one line says so. What these flags do there is tested with a stand-in for Ray in tests/fleet.
        "fleet by Ray",
        "fleet --engine ray --address 10.1.2.3:6379 --patience 0 --tries 3 --kinds v100 --model vim_tiny --r 0 --out f6",
        dict.fromkeys(("--address", "--patience", "--tries"), lambda d: d.warns("Ray")),
        code=6,
        refusal="needs Ray: pip install",
    ),
]
GATE = [
    Row(
        "gate",
        "gate --base brief --head slow --pairs 2 --gpus none --model vim_nano --r 0 --data v --class-map map.txt "
        "--on-error skip --images 12 --checkpoints ck --batch-size 2 --seed 9 --margin 20% "
        "--top1-margin 99 --out g --json g.json --junit g.xml",
        {
            "--base": lambda d: d.says(r"FAIL: images/s of"),
            "--head": lambda d: d.says(r"FAIL: images/s of"),
            "--pairs": lambda d: len(d.files("g")) in (4, 8),  # runs; 8 where the first two pairs were not clear
            "--gpus": lambda d: {arm["device"] for arm in d.arms("g/head-1")} == {"cpu"},
            "--model": lambda d: {arm["model"] for arm in d.arms("g/head-1")} == {"vim_nano"},
            "--r": lambda d: [arm["r"] for arm in d.arms("g/head-1")] == [0],
            "--data": lambda d: d.json("g/head-1/manifest.json")["data"]["vim_nano"]["name"].startswith("v,"),
            "--class-map": lambda d: d.arms("g/base-2")[0]["top1"]["value"] > 80,
            "--on-error": lambda d: {arm["n_images"] for arm in d.arms("g/base-1")} <= {11, 12},
            "--images": lambda d: {arm["n_images"] for arm in d.arms("g/head-1")} <= {11, 12},
            "--checkpoints": lambda d: d.arms("g/base-1")[0]["checkpoint_sha256"] == d.sha256("ck/vim_nano_r0.safetensors"),
            "--batch-size": lambda d: {arm["batch_size"] for arm in d.arms("g/base-1")} == {2},
            "--seed": lambda d: d.plan("g/base-1")["seed"] == 9,
            "--margin": lambda d: {c["margin"] for c in d.json("g.json")["changes"] if c["metric"] == "images/s"} == {0.2},
            "--top1-margin": lambda d: (
                {c["outcome"] for c in d.json("g.json")["changes"] if c["metric"] == "top-1"} == {"PASS"}
            ),
            "--json": lambda d: d.json("g.json")["outcome"] == "FAIL",
            "--junit": lambda d: "<failure" in d.text("g.xml"),
            "--out": lambda d: d.files("g/base-1") >= FILES,
        },
        code=3,
        needs=("retrain",),
    ),
]
GATE += [
    Row(  # A program that answers `run` with the flags it was given: what they do there is what the rows of `run` show.
        "gate of programs",
        "gate --base answers --head answers --pairs 2 --gpus none --ratios 0,0.31 --data flat --labels listed.txt --thorough "
        "--precision bf16 --backend chunked --out g2 --json -",
        {
            "--ratios": lambda d: "--ratios 0,0.31" in d.told("g2/head-2"),
            "--labels": lambda d: f"--labels {d.world.root}/listed.txt" in d.told("g2/base-1"),
            "--precision": lambda d: "--precision bf16" in d.told("g2/base-2"),
            "--backend": lambda d: "--backend chunked" in d.told("g2/head-2"),
            "--thorough": lambda d: "--quick" not in d.told("g2/head-1"),
            "--json": lambda d: d.json()["outcome"] == "PASS",
        },
        needs=("fleet",),
        prepare=answering_program,
    ),
    Row(  # How much memory a run takes is known on GPUs alone: here the margin is only read.
        "gate by memory",
        "gate --base a --head a --memory-margin 5",
        {"--memory-margin": lambda d: d.warns("'5' is no percentage; write it as 0.5%")},
        code=2,
    ),
]
CALIBRATED = "--model vim_small --batch-size 8 --block-seconds 0.5 --seed 2"
CPU = "calibrate --gpus none --processes 4 --rounds 6 --batch-size 1 --block-seconds 0.01"
CALIBRATE = [
    Row(
        "calibrate",
        f"calibrate --device sim --gpus v100,a4000 --processes 4 --rounds 7 {CALIBRATED} --out c --json",
        {
            "--device": lambda d: all(profile["device_name"].endswith("(simulated)") for profile in d.json()),
            "--gpus": lambda d: d.files("c") == {"sim_v100.json", "sim_a4000.json"},
            "--processes": lambda d: {profile["noise"]["sessions"] for profile in d.json()} == {4},
            "--rounds": lambda d: {profile["noise"]["rounds"] for profile in d.json()} == {28},
            "--out": lambda d: d.json("c/sim_v100.json")["noise"] == d.json()[0]["noise"],
            "--json": lambda d: len(d.json()) == 2,
        },
    ),
    *(
        Row(
            f"calibrate {flag} {value}",
            "calibrate --device sim --gpus v100 --processes 4 --rounds 7 --json "
            f"--out {place} {CALIBRATED.replace(f'{flag} {old}', f'{flag} {value}')}",
            {flag: lambda d: d.json()[0]["noise"] != d.before("calibrate").json()[0]["noise"]},
            needs=("calibrate",),
        )
        for place, flag, old, value in (
            ("c1", "--model", "vim_small", "vim_base"),
            ("c2", "--batch-size", "8", "128"),
            ("c3", "--block-seconds", "0.5", "2"),
            ("c4", "--seed", "2", "3"),
        )
    ),
    Row(
        "calibrate though it is busy",
        f"{CPU} --allow-busy --out c5",
        {
            "--allow-busy": lambda d: (
                d.json("c5/cpu.json")["noise"]["rounds"] == 24
                and 0 < d.json("c5/cpu.json")["noise"]["within_sd"] < 1
                and d.warns("process 3 and 4 of 4")
            )
        },
        prepare=busy,
    ),
]
MACHINES = [*FLEET, *GATE, *CALIBRATE]
