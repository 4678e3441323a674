"""`rmeeto-bench doctor`: what this machine has, which kernels would run and why not faster ones, and what to do about it."""

from __future__ import annotations

import argparse
import sys
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmeeto_bench.measure.device import Device

PACKAGES = ("torch", "triton", "timm", "mamba-ssm", "causal-conv1d", "nvidia-ml-py")
ADVICE = {
    "triton": "the CUDA build of torch brings triton; GPUs before compute capability 8.0 (V100, Turing) go without it",
    "mamba_ssm": "optional: pip install --no-build-isolation 'rmeeto-bench[mamba-ssm]' on a machine with nvcc",
    "native": "install g++ (Debian: apt install g++); it builds the CPU kernels once, on first use",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("--gpus", default="all", metavar="WHICH", help="all (default), none, indices 0,1 or UUIDs")
    parser.add_argument("--model", default="vim_small", metavar="NAME", help="the model to choose kernels for")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _lines(device: Device, model: str) -> list[str]:
    """What there is to say about one device."""
    from rmeeto_bench.kernels.registry import Operands, select
    from rmeeto_bench.measure.nvml import snapshot
    from rmeeto_bench.models.zoo import config
    from rmeeto_bench.profiles import match_profile

    sized = config(model)
    details = device.details()
    lines = [f"{device.id}: {device.name}"]
    if device.kind == "cuda":
        profile = match_profile(device.name, details.get("memory_gib"))
        lines.append(f"  profile: {profile.display if profile else 'none: results carry the name as it is'}")
        state = {name: value for name, value in snapshot(device.id.removeprefix("cuda:")).items() if value is not None}
        lines.append("  now: " + (", ".join(f"{name} {value}" for name, value in state.items()) or "NVML says nothing"))
    kernels = select("auto", Operands(device.torch_device.type, sized.d_state, sized.d_conv))
    merging = "fused" if kernels.merge is not None else "in torch operations"
    lines.append(f"  kernels for {model}: {kernels.name}, merging {merging}")
    if device.kind == "cuda":
        lines.append("  CUDA graphs: used at inference (--no-graphs turns them off)")
    for name, reason in kernels.refused.items():
        lines.append(f"  not {name}: {reason}")
        lines.append(f"    to change that: {ADVICE[name]}")
    if not kernels.refused:
        lines.append("  that is the fastest there is for this device")
    return lines


def main(arguments: argparse.Namespace) -> int:
    """Print the state of packages and devices; 6 if a device asked for is not there."""
    import torch

    from rmeeto_bench.bench.weights import bundled_models
    from rmeeto_bench.cli import mamba_help
    from rmeeto_bench.data.fashion_mnist import DEBIAN
    from rmeeto_bench.measure.device import find_devices

    print(f"python {sys.version.split()[0]}, " + ", ".join(f"{package} {_version(package)}" for package in PACKAGES))
    print(f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch was built without CUDA")
    devices = find_devices(arguments.gpus)
    if arguments.gpus == "all" and devices[0].kind == "cpu":
        print("no GPU that torch can use was found: check nvidia-smi and the CUDA build of torch if there should be one")
    for device in devices:
        print("\n".join(_lines(device, arguments.model)))
    print("\n".join(mamba_help.lines(torch.version.cuda, torch.cuda.device_count())))
    print(f"bundled weights: {', '.join(bundled_models()) or 'none'}")
    found = str(DEBIAN) if DEBIAN.is_dir() else "not found (Debian: apt install dataset-fashion-mnist)"
    print(f"training data for vim_nano: {found}")
    return 0
