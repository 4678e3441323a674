"""`rmeeto-bench calibrate`: measure the same model against itself to learn how small a difference this device can show."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli import output

if TYPE_CHECKING:
    from rmeeto_bench.compare.calibrate import Calibration
    from rmeeto_bench.compare.noise import NoiseProfile

NOTICEABLE = 0.001  # telemetry that costs more than this is worth a warning


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
    parser.add_argument("--processes", type=int, default=12, metavar="N", help="fresh processes per device (default: 12)")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="rounds in each process (default: 8)")
    parser.add_argument("--block-seconds", type=float, default=0.4, metavar="S", help="length of a block (default: 0.4)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="order of rounds, inputs, simulated noise")
    parser.add_argument("--allow-busy", action="store_true", help="keep rounds in which other programs used the device")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the profiles (default: the user's cache)")
    parser.add_argument("--json", action="store_true", help="print the profiles as JSON instead of text")


def describe(profile: NoiseProfile) -> list[str]:
    """A profile in words."""
    from rmeeto_bench.compare.noise import gate_sentence

    noise = profile.noise
    cost = noise.telemetry_cost
    interval = "" if cost.low is None or cost.high is None else f" [{100 * cost.low:+.3f}, {100 * cost.high:+.3f}]"
    lines = [
        f"{profile.device_name}: {noise.sessions} processes, {noise.rounds} rounds",
        f"  within a round      {100 * noise.within_sd:.3f} %",
        f"  between processes   {100 * noise.between_sd:.3f} % of a speed-up, {100 * noise.rate_sd:.3f} % of images/s",
        f"  within a pair       {100 * noise.pair_speedup_sd:.3f} % of a speed-up, "
        f"{100 * noise.pair_rate_sd:.3f} % of images/s",
        f"  drift               {100 * noise.drift:+.3f} % per minute",
        f"  telemetry costs     {100 * cost.value:+.3f} %{interval}",
        f"  {gate_sentence(noise)}",
    ]
    if cost.low is not None and cost.low > NOTICEABLE:
        lines.append("  warning: watching this device slows it down; every arm carries that cost")
    return lines


def _asked(arguments: argparse.Namespace) -> Calibration:
    """What the flags ask for. Raises `UsageError`."""
    from dataclasses import replace

    from rmeeto_bench.bench.plan.plan import BenchPlan
    from rmeeto_bench.bench.run.controls import Controls
    from rmeeto_bench.compare.calibrate import Calibration
    from rmeeto_bench.errors import UsageError
    from rmeeto_bench.measure.protocol import DEFAULT, THROTTLED
    from rmeeto_bench.validate import at_least

    at_least(4, {"--processes": arguments.processes})
    at_least(6, {"--rounds": arguments.rounds})
    if arguments.processes % 2:
        raise UsageError(f"--processes must be even, not {arguments.processes}: the processes of a gate come in pairs")
    seconds = arguments.block_seconds
    if not 0.01 <= seconds <= 600:
        raise UsageError(f"--block-seconds lies between 0.01 and 600, not {seconds:g}")
    plan = BenchPlan(
        models=(arguments.model,),
        rs=(0,),
        checkpoints="none",
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        inputs="random",
    )
    protocol = replace(
        DEFAULT,
        block_seconds=seconds,
        warmup_seconds=10 * seconds,
        warmup_limit=120 * seconds,
        min_rounds=arguments.rounds,
        max_rounds=arguments.rounds,
        target=0.0,
        seed=arguments.seed,
        time_limit=float("inf"),
        reject=(THROTTLED,) if arguments.allow_busy else DEFAULT.reject,
    )
    return Calibration(plan, protocol, arguments.processes, Controls(lambda news: output.say(news.text, error=True)))


def main(arguments: argparse.Namespace) -> int:
    """Calibrate every device asked for and keep the profiles."""
    import json
    from dataclasses import asdict

    from rmeeto_bench.bench.run.devices import discover
    from rmeeto_bench.compare.calibrate import calibrate
    from rmeeto_bench.compare.noise import save_noise_profile

    asked, profiles = _asked(arguments), []
    simulated = "sim" if arguments.gpus == "all" else f"sim:{arguments.gpus}"
    for device in discover(simulated if arguments.device == "sim" else arguments.gpus):
        profile = calibrate(device, asked)
        path = save_noise_profile(profile, arguments.out)
        profiles.append(asdict(profile))
        if not arguments.json:
            output.say("\n".join(describe(profile)))
            output.say(f"  kept in {path}")
    if arguments.json:
        output.say(json.dumps(profiles, indent=1, ensure_ascii=False))
    return 0
