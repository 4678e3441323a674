"""`rmeeto-bench doctor`: what this machine has, which kernels would run and why not faster ones, what would spoil a
measurement here, and what to do about each. Nothing is set: what needs an administrator is advice.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from rmeeto_bench.cli import output
from rmeeto_bench.models.sizes import config

if TYPE_CHECKING:
    from rmeeto_bench.measure.devices.device import Device

PACKAGES = ("torch", "triton", "timm", "mamba-ssm", "causal-conv1d", "nvidia-ml-py")
HOT = 80  # deg C; NVIDIA's GPUs slow down from 83 to 90
ADVICE = {
    "triton": "the CUDA build of torch brings triton; a V100 needs the build for CUDA 12.6 and a driver before R590",
    "mamba_ssm": "optional: pip install --no-build-isolation 'rmeeto-bench[mamba-ssm]' on a machine with nvcc",
    "native": "install a wheel of this platform, which has the kernels, or g++ (Debian: apt install g++) to build them once",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("--gpus", default="all", metavar="WHICH", help="all (default), none, indices 0,1 or UUIDs")
    parser.add_argument("--strict", action="store_true", help="exit with 6 if something here would make a run invalid")
    parser.add_argument("--model", default="vim_small", metavar="NAME", help="the model to choose kernels for")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def gpu_hazards(state: Mapping[str, Any]) -> Iterator[tuple[bool, str, str]]:
    """(whether it makes a run invalid, what it is, the remedy) for the state of a GPU as NVML gives it."""
    if "unavailable" in state:
        yield (
            False,
            f"NVML does not answer ({state['unavailable']}): throttling and other programs stay unseen",
            "install the driver",
        )
        return
    if state.get("compute_pids"):
        pids = ", ".join(map(str, state["compute_pids"]))
        yield True, f"other programs compute on it (CONTENDED): processes {pids}", "wait for them or stop them"
    if state.get("mig"):
        yield False, "it is split by MIG: results carry the label MIG, clocks and energy are unknown", "sudo nvidia-smi -mig 0"
    if state.get("persistence") is False:
        yield False, "persistence mode is off: the driver may reload between sessions", "sudo nvidia-smi -pm 1"
    if state.get("temperature_c", 0) >= HOT:
        yield True, f"it is at {state['temperature_c']} deg C and may throttle (THROTTLED)", "let it cool, improve the air flow"
    limit, usual = state.get("power_limit_w"), state.get("power_limit_default_w")
    if limit and usual and limit < usual:
        text = f"its power limit is {limit:.0f} W instead of the usual {usual:.0f} W, so results are those of a slower card"
        yield False, text, f"sudo nvidia-smi -pl {usual:.0f}"
    if state.get("display"):
        yield False, "a display is attached: the desktop takes time from it", "measure on another GPU or without a desktop"
    width, most = state.get("pcie_width"), state.get("pcie_width_max")
    if width and most and width < most:
        yield False, f"its PCIe link has {width} of {most} lanes", "check the slot and the riser; timing itself is not affected"
    if state.get("max_sm_mhz"):
        clock = f"{state['max_sm_mhz'] * 3 // 4}"
        text = "its clock is free to move (UNLOCKED); speed-ups are sound, but rates of two days may differ"
        yield False, text, f"sudo nvidia-smi -lgc {clock},{clock} (and -rgc afterwards)"


def cpu_hazards(load: float, cores: int, threads: int) -> Iterator[tuple[bool, str, str]]:
    """The same for a processor, from its load average."""
    if load > max(0.5, cores - threads + 0.5 * threads):
        yield True, f"the load average is {load:.1f} on {cores} cores (CONTENDED)", "wait for other programs or stop them"
    if threads > cores:
        yield False, f"{threads} threads run on {cores} cores", f"set OMP_NUM_THREADS={cores}"


def _hazards(device: Device, state: Mapping[str, Any]) -> list[tuple[bool, str, str]]:
    if device.kind == "cuda":
        found = list(gpu_hazards(state))
    elif device.kind == "cpu":
        details = device.details()
        found = list(cpu_hazards(os.getloadavg()[0], details["cores"], details["threads"]))
    else:
        found = [(False, "it is simulated: its numbers say nothing about a GPU (SIMULATED)", "measure on a real device")]
    return found


def _hazard_lines(found: list[tuple[bool, str, str]]) -> list[str]:
    lines = []
    for invalid, what, remedy in found:
        lines += [f"  {'would make a run invalid' if invalid else 'to know'}: {what}", f"    remedy: {remedy}"]
    return lines or ["  nothing here would spoil a measurement"]


def _noise_line(device: Device) -> str:
    """What calibration found of this device."""
    from rmeeto_bench.compare.noise import gate_sentence, load_noise_profile
    from rmeeto_bench.errors import DataError

    try:
        profile = load_noise_profile(device.id)
    except DataError as error:
        return f"  noise: {error}"
    if profile is None:
        return "  noise: not measured; `rmeeto-bench calibrate` finds the smallest change that this device can show"
    noise, day = profile.noise, profile.created_utc[:10]
    return f"  noise (calibrated {day}): {gate_sentence(noise)}"


def _lines(device: Device, model: str, state: Mapping[str, Any]) -> list[str]:
    """What there is to say about one device."""
    from rmeeto_bench.kernels.native import library
    from rmeeto_bench.kernels.registry import Operands, select
    from rmeeto_bench.models.sizes import DeitConfig
    from rmeeto_bench.profiles import match_profile

    sized = config(model)
    details = device.details()
    lines = [f"{device.id}: {device.name}"]
    if device.kind == "cuda":
        profile = match_profile(device.name, details.get("memory_gib"))
        lines.append(f"  profile: {profile.display if profile else 'none: results carry the name as it is'}")
        lines.append("  now: " + (", ".join(f"{name} {value}" for name, value in state.items()) or "NVML says nothing"))
    lines.append(_noise_line(device))
    if isinstance(sized, DeitConfig):
        return [*lines, f"  kernels for {model}: torch's attention, merging in torch operations"]
    kernels = select("auto", Operands(device.torch_device.type, sized.d_state, sized.d_conv))
    merging = "fused" if kernels.merge is not None else "in torch operations"
    lines.append(f"  kernels for {model}: {kernels.name}, merging {merging}")
    if kernels.name == "native":
        lines.append(f"  compiled for {library.describe()}")
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

    from rmeeto_bench.bench.plan.weights import bundled_models
    from rmeeto_bench.bench.run.devices import no_gpu
    from rmeeto_bench.cli import install_help
    from rmeeto_bench.data.layouts.fashion_mnist import DEBIAN
    from rmeeto_bench.errors import UnavailableError
    from rmeeto_bench.measure.devices.device import find_devices
    from rmeeto_bench.measure.devices.nvml import snapshot

    output.say(f"python {sys.version.split()[0]}, " + ", ".join(f"{package} {_version(package)}" for package in PACKAGES))
    output.say(f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch was built without CUDA")
    devices = find_devices(arguments.gpus)
    if absent := no_gpu(arguments.gpus, devices):
        output.say(f"{absent}: check nvidia-smi and torch's CUDA build if there should be one")
    unfit = False
    for device in devices:
        state = snapshot(device.id.removeprefix("cuda:")) if device.kind == "cuda" else {}
        found = _hazards(device, state)
        unfit = unfit or any(invalid for invalid, _, _ in found)
        output.say("\n".join([*_lines(device, arguments.model, state), *_hazard_lines(found)]))
    output.say("\n".join(install_help.lines(torch.version.cuda, torch.cuda.device_count())))
    output.say(f"bundled weights: {', '.join(bundled_models()) or 'none'}")
    images = str(DEBIAN) if DEBIAN.is_dir() else "not found (Debian: apt install dataset-fashion-mnist)"
    output.say(f"training data for vim_nano: {images}")
    if unfit and arguments.strict:
        raise UnavailableError("this machine is not fit to measure now; the lines above say why and what to do")
    return 0
