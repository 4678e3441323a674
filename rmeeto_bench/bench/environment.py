"""What a result must remember of the machine and the software it was measured with."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from rmeeto_bench.measure.devices.nvml import snapshot

DRIVER = ("driver", "power_limit_w", "unavailable")
PACKAGES = ("torch", "triton", "timm", "numpy", "scipy", "mamba-ssm", "causal-conv1d")
VARIABLES = (
    "RMEETO_BENCH_LOCKS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "LD_PRELOAD",
    "SLURM_JOB_ID",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "GOMP_SPINCOUNT",
    "ATEN_CPU_CAPABILITY",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TRITON_INTERPRET",
    "CXX",
)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def commit() -> str | None:
    """The commit of the checkout this runs from, `+` if it was changed since; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _torch() -> dict[str, Any]:
    """What torch and the compiled kernels say of themselves; importing them takes seconds."""
    import torch

    from rmeeto_bench.kernels.native.library import describe

    try:
        cudnn: int | str | None = torch.backends.cudnn.version()
    except RuntimeError as error:  # one of the GPUs is too old for it; the others may go on
        cudnn = str(error).partition(". ")[0]
    return {
        "cuda": torch.version.cuda,
        "cudnn": cudnn,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_kernels": describe(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def environment(gpu: str | None = None, *, torch: bool = True) -> dict[str, Any]:
    """Versions, system, threads, load and the variables that matter, as plain JSON values; with the UUID of a GPU also what
    its driver says. `host` tells the processors of merged runs apart; containers, whose names are random, set
    RMEETO_BENCH_HOST. `torch`: whether torch is asked too; what runs on simulated devices alone does without."""
    driver = {} if gpu is None else {name: value for name, value in snapshot(gpu).items() if name in DRIVER}
    return (
        driver
        | (_torch() if torch else {})
        | {
            "host": os.environ.get("RMEETO_BENCH_HOST") or platform.node(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "packages": {package: version for package in PACKAGES if (version := _version(package))},
            "load_average": round(os.getloadavg()[0], 2),
            "git_commit": commit(),
            "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        }
    )
