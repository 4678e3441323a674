"""`rmeeto-bench calibrate`: measure the same model against itself to learn how small a difference this device can show."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmeeto_bench.measure.device import Device
    from rmeeto_bench.measure.noise import NoiseProfile
    from rmeeto_bench.measure.rounds import TimedArm
    from rmeeto_bench.records import Block

SIMULATED_STEP = 0.1  # seconds
NOTICEABLE = 0.001  # telemetry that costs more than this is worth a warning


@dataclass(frozen=True)
class Job:
    """What one session needs to know; it crosses to a fresh process."""

    spec: str
    session: int
    model: str
    batch_size: int
    rounds: int
    block_seconds: float
    seed: int
    allow_busy: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("--gpus", default="all", metavar="WHICH", help="all (default), none (the CPU), indices 0,1 or UUIDs")
    parser.add_argument(
        "--device",
        choices=("auto", "sim"),
        default="auto",
        help="sim: simulated GPUs, the paper's or --gpus rtx4090,v100",
    )
    parser.add_argument("--model", default="vim_nano", metavar="NAME", help="the model that is timed (default: vim_nano)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per step (default: 128 on a GPU, 32 on a CPU)")
    parser.add_argument("--processes", type=int, default=5, metavar="N", help="fresh processes per device (default: 5)")
    parser.add_argument("--rounds", type=int, default=12, metavar="N", help="rounds in each process (default: 12)")
    parser.add_argument("--block-seconds", type=float, default=1.0, metavar="S", help="length of a block (default: 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="order of rounds, inputs, simulated noise")
    parser.add_argument("--allow-busy", action="store_true", help="keep rounds in which other programs used the device")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the profiles (default: the user's cache)")
    parser.add_argument("--json", action="store_true", help="print the profiles as JSON instead of text")


def _arms(device: Device, job: Job) -> list[TimedArm]:
    """The same program three times: as it is, as a second copy, and the first again without telemetry."""
    from rmeeto_bench.measure.noise import ARM, TWIN, UNOBSERVED
    from rmeeto_bench.measure.rounds import TimedArm
    from rmeeto_bench.measure.simulated import SimDevice

    if isinstance(device, SimDevice):
        first, second = device.step(ARM, SIMULATED_STEP), device.step(TWIN, SIMULATED_STEP)
        return [
            TimedArm(ARM, first, job.batch_size),
            TimedArm(TWIN, second, job.batch_size),
            TimedArm(UNOBSERVED, first, job.batch_size, observed=False),
        ]
    import torch

    from rmeeto_bench.bench.arms import Step
    from rmeeto_bench.models.zoo import config, create_model

    sized = config(job.model)
    generator = torch.Generator().manual_seed(job.seed)
    dtype = torch.float16 if device.kind == "cuda" else torch.float32
    shape = (job.batch_size, *sized.input_shape)
    images = torch.randn(shape, generator=generator).to(device.torch_device, dtype)
    steps = []
    for _ in range(2):
        torch.manual_seed(job.seed)
        steps.append(Step(create_model(job.model).to(device.torch_device, dtype).eval().freeze(), [images]))
    return [
        TimedArm(ARM, steps[0], job.batch_size),
        TimedArm(TWIN, steps[1], job.batch_size),
        TimedArm(UNOBSERVED, steps[0], job.batch_size, observed=False),
    ]


def run_session(job: Job) -> list[Block]:
    """Measure one session in this process; its blocks."""
    from rmeeto_bench.measure.device import find_devices
    from rmeeto_bench.measure.noise import ARM
    from rmeeto_bench.measure.protocol import THROTTLED
    from rmeeto_bench.measure.rounds import DEFAULT, Watch, measure

    (device,) = find_devices(job.spec, seed=job.seed, session=job.session)
    blocks: list[Block] = []
    protocol = replace(
        DEFAULT,
        block_seconds=job.block_seconds,
        warmup_seconds=10 * job.block_seconds,
        warmup_limit=120 * job.block_seconds,
        min_rounds=job.rounds,
        max_rounds=job.rounds,
        target=0.0,
        seed=job.seed,
        time_limit=math.inf,
        reject=(THROTTLED,) if job.allow_busy else DEFAULT.reject,
    )
    measure(device, _arms(device, job), ARM, protocol, Watch(blocks.append), session=job.session)
    return blocks


def _blocks(device: Device, arguments: argparse.Namespace) -> list[Block]:
    """All sessions of a device: each in a fresh process, but for a simulated one, which has none to speak of."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    spec = "none" if device.kind == "cpu" else device.id.removeprefix("cuda:")
    batch = arguments.batch_size or (32 if device.kind == "cpu" else 128)
    a = arguments
    given = (a.model, batch, a.rounds, a.block_seconds, a.seed, a.allow_busy)
    jobs = [Job(spec, number, *given) for number in range(arguments.processes)]
    if device.kind == "sim":
        return [block for job in jobs for block in run_session(job)]
    found: list[Block] = []
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        for job in jobs:
            print(f"{device.name}: process {job.session + 1} of {len(jobs)}", file=sys.stderr)
            found += pool.submit(run_session, job).result()
    return found


def calibrate(device: Device, arguments: argparse.Namespace) -> NoiseProfile:
    """The noise profile of one device. Raises `MeasurementError` where too little could be measured."""
    from datetime import UTC, datetime

    from rmeeto_bench import __version__
    from rmeeto_bench.measure.noise import NoiseProfile, estimate_noise

    noise = estimate_noise(_blocks(device, arguments))
    return NoiseProfile(device.id, device.name, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", __version__, noise)


def describe(profile: NoiseProfile) -> list[str]:
    """A profile in words."""
    noise = profile.noise
    cost = noise.telemetry_cost
    interval = "" if cost.low is None or cost.high is None else f" [{100 * cost.low:+.3f}, {100 * cost.high:+.3f}]"
    lines = [
        f"{profile.device_name}: {noise.sessions} processes, {noise.rounds} rounds",
        f"  within a round      {100 * noise.within_sd:.3f} %",
        f"  between processes   {100 * noise.between_sd:.3f} % of a speed-up, {100 * noise.rate_sd:.3f} % of images/s",
        f"  drift               {100 * noise.drift:+.3f} % per minute",
        f"  smallest change a gate of 5 processes a side finds: {100 * noise.smallest_speedup_effect:.2f} % of a speed-up, "
        f"{100 * noise.smallest_rate_effect:.2f} % of images/s",
        f"  telemetry costs     {100 * cost.value:+.3f} %{interval}",
    ]
    if cost.low is not None and cost.low > NOTICEABLE:
        lines.append("  warning: watching this device slows it down; results carry that cost in every arm alike")
    return lines


def main(arguments: argparse.Namespace) -> int:
    """Calibrate every device asked for and keep the profiles."""
    import json
    from dataclasses import asdict

    from rmeeto_bench.errors import UsageError
    from rmeeto_bench.measure.device import find_devices
    from rmeeto_bench.measure.noise import save_noise_profile
    from rmeeto_bench.models.zoo import config

    config(arguments.model)
    for name, least in (("processes", 2), ("rounds", 6), ("batch_size", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if not 0.01 <= arguments.block_seconds <= 600:
        raise UsageError(f"--block-seconds lies between 0.01 and 600, not {arguments.block_seconds:g}")
    profiles = []
    simulated = "sim" if arguments.gpus == "all" else f"sim:{arguments.gpus}"
    for device in find_devices(simulated if arguments.device == "sim" else arguments.gpus):
        profile = calibrate(device, arguments)
        path = save_noise_profile(profile, arguments.out)
        profiles.append(asdict(profile))
        if not arguments.json:
            print("\n".join(describe(profile)))
            print(f"  kept in {path}")
    if arguments.json:
        print(json.dumps(profiles, indent=1, ensure_ascii=False))
    return 0
