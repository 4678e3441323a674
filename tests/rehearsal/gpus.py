"""Commands on stand-in GPUs inside of torch (`stand_in/`), each in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from fresh import PLAIN, Done, ready, start

HERE = Path(__file__).parent
GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-000000000000")
SLICE = "MIG-77777777-8888-9999-aaaa-bbbbbbbbbbbb"
IDS = tuple(gpu.replace("GPU-", "cuda:") for gpu in GPUS)
NAME = "NVIDIA H100 80GB HBM3 (stand-in)"
MACHINE = {"STAND_IN_GPUS": ",".join(GPUS), "TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE / "stand_in")}


def variables(**more: str) -> dict[str, str]:
    """Of a machine with two GPUs."""
    found = {**os.environ, **PLAIN, **MACHINE, "COLUMNS": "250"}
    found.pop("CUDA_VISIBLE_DEVICES", None)
    return found | more


def forked() -> dict[str, str]:
    """The variable that makes the package's processes forks of one that has imported torch."""
    return {"STAND_IN_READY": ready(variables=tuple(MACHINE.items()))}


def on_gpus(cwd: Path, *words: object, **more: str) -> Done:
    """What a command did, with these variables more."""
    return start(words, cwd, variables(**forked(), **more), forked()["STAND_IN_READY"])
