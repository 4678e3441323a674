"""Print the tables of docs/intervals.md: how often printed intervals cover the truth, and which rows are VALID.

    python benchmarks/intervals.py            # all tables, some minutes
    python benchmarks/intervals.py width      # one of: width, cover, asked, heat

Runs are made (`noisy_runs.py`) or simulated, their analysis and verdicts are the tool's own. The tests use other seeds.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from noisy_runs import Noise, Shape, times

from rmeeto_bench.bench.plan.plan import BenchPlan, protocol_for
from rmeeto_bench.measure.devices.simulated import Scenario, SimDevice
from rmeeto_bench.measure.protocol import DEFAULT, RoundsResult, TimedArm, TimingProtocol, Watch, blind_seconds
from rmeeto_bench.measure.rounds import measure
from rmeeto_bench.measure.statistics import as_asked, complete_rounds, half_width, run_speedup
from rmeeto_bench.measure.steadiness import still_warming, unsteady
from rmeeto_bench.measure.verdict import Printed, judge_run
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.records.run import Block, Estimate

SEED = 31_000
ARMS_ASKED = (2, 3, 4, 5, 6, 7)
FEWEST_SHOWN = 60  # VALID rows of which a share is worth printing
CONSTANTS = (10.0, 30.0, 90.0, 240.0, 600.0)  # of warming, seconds
ON_CPU = protocol_for(BenchPlan(), "cpu")
FINE = RoundsResult(8, True, "rounds", 0.0)  # what a session says of itself where nothing was wrong


NOTHING = Estimate(1.0)


@dataclass(frozen=True)
class Judged:
    """One run's row of the fastest arm."""

    value: float  # the speed-up over its true value
    covers: bool  # whether the printed interval holds the truth
    half_width: float  # of the printed interval, as a share of the value
    verdict: str
    own: Estimate = NOTHING  # the interval as the processes give it, before `as_asked`


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether there is an interval and the truth lies in it."""
    return estimate.low is not None and estimate.high is not None and estimate.low <= truth <= estimate.high


def judged_runs(noise: Noise, shape: Shape, runs: int, seed: int, protocol: TimingProtocol = DEFAULT) -> list[Judged]:
    """Made runs through the tool's own analysis."""
    found = []
    arm = f"arm{shape.arms - 1}"
    for run in times(noise, shape, runs, seed):
        first = [session["arm0"] for session in run]
        speedups = {name: run_speedup(first, [session[name] for session in run]) for name in run[0] if name != "arm0"}
        widths = [half_width(other) for other in speedups.values()]
        estimate = as_asked(speedups[arm], widths, protocol.target, shape.sessions)
        width, middle = half_width(estimate), float(np.median(widths))
        reason = unsteady(run, "arm0", arm)
        verdict = judge_run([FINE] * shape.sessions, protocol, Printed(shape.sessions, width, middle, reason))
        found.append(Judged(estimate.value, holds(estimate, 1.0), width, verdict, speedups[arm]))
    return found


@dataclass(frozen=True)
class Heated:
    """A run on a device whose heat slows the baseline by 4 % and the fastest arm by 2 %, the others by what lies between."""

    constant: float = 1e-3  # of warming and cooling, seconds; tiny: no heat to speak of
    arms: int = 2
    kind: str = "cuda"  # of the device
    thermometer: bool = True
    pause: float = 9.0  # seconds for which the device cools before each process; infinite: each finds it cold
    worked: float = 0.0  # seconds of work before the run
    block_sd: float = 0.002  # of each block by itself
    machine_sd: float = 0.004  # of slow noise that all arms feel alike
    process_sd: float = 0.004  # between processes, of each arm by itself


def heated_run(how: Heated, seed: int, protocol: TimingProtocol | None = None) -> Judged:
    """Through the real warm-up and rounds of the default preset. The truth is the device that has worked for ever."""
    protocol = protocol or (ON_CPU if how.kind == "cpu" else DEFAULT)
    profile = next(profile for profile in load_profiles() if profile.name == "rtx4090")
    felt = {f"arm{i}": float(share) for i, share in enumerate(np.linspace(0.04, 0.02, how.arms))}
    names, fastest = list(felt), f"arm{how.arms - 1}"
    scenario = Scenario(
        ar_sd=how.machine_sd,
        idiosyncratic_sd=how.block_sd,
        process_sd=how.process_sd,
        warm_seconds=how.constant,
        heat=tuple(felt.items()),
        thermometer=how.thermometer,
    )
    results, rounds, degrees = [], [], []
    warm, worked = 1 - np.exp(-how.worked / how.constant), 0.0
    for session in range(protocol.sessions):
        device = SimDevice(profile, seed=seed, session=session, scenario=scenario)
        device.pass_time(-how.constant * np.log1p(-warm * np.exp(-how.pause / how.constant)))
        arms = [TimedArm(name, device.step(name, 0.1), 8) for name in names]
        blocks: list[Block] = []
        own = replace(protocol, blind_seconds=blind_seconds(protocol, how.kind, worked))
        results.append(measure(device, arms, names[0], own, Watch(blocks.append), session=session))
        rounds += complete_rounds(blocks, names)
        degrees.append([block.telemetry["temperature_c"] for block in blocks if "temperature_c" in block.telemetry])
        warm = 1 - np.exp(-device.clock() / how.constant)
        worked += device.clock()
    truth = (1 + felt[names[0]]) / (1 + felt[fastest])
    first = [session[names[0]] for session in rounds]
    speedups = [run_speedup(first, [session[name] for session in rounds]) for name in names[1:]]
    own, widths = speedups[-1], [half_width(other) for other in speedups]
    estimate = as_asked(own, widths, protocol.target, len(rounds))
    width = half_width(estimate)
    reason = unsteady(rounds, names[0], fastest) or still_warming(degrees)
    verdict = judge_run(results, protocol, Printed(len(rounds), width, float(np.median(widths)), reason))
    return Judged(estimate.value / truth, holds(estimate, truth), width, verdict, own)


def _share(values: Sequence[bool]) -> str:
    """A share with its standard error."""
    share, count = float(np.mean(values)), len(values)
    return f"{share:.3f} ± {max(np.sqrt(share * (1 - share) / count), 0.5 / count):.3f}"


def _row(name: str, runs: Sequence[Judged]) -> str:
    valid = [run.covers for run in runs if run.verdict == "VALID"]
    bias = [100 * (run.value - 1) for run in runs]
    error = float(np.std(bias) / np.sqrt(len(bias)))
    width = 100 * float(np.median([run.half_width for run in runs]))
    not_valid = _share([run.verdict != "VALID" for run in runs])
    alone = _share(valid) if valid else "—"
    covers = _share([run.covers for run in runs])
    return f"| {name} | {np.mean(bias):+.2f} ± {error:.2f} | ±{width:.2f} | {covers} | {not_valid} | {alone} |"


HEAD = (
    "| | bias, % | median half-width, % | covers | not VALID | VALID rows cover |\n| --- | ---: | ---: | ---: | ---: | ---: |"
)


def table_of_width() -> None:
    """Sessions against rounds at the same time: six arms, half-second blocks, 17 s to start and warm a process."""
    print("| sessions x rounds | minutes | half-width, %, processes alike | differ by 0.4 % | by 1 % | covers at 0.4 % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for sessions, rounds in ((3, 27), (4, 19), (5, 14), (6, 11), (6, 8), (8, 6), (10, 4)):
        shape = Shape(sessions, rounds, arms=2)
        groups = [judged_runs(Noise(0.003, process_sd=sd), shape, 500, SEED + sessions) for sd in (0.0, 0.004, 0.01)]
        widths = " | ".join(f"±{100 * np.mean([run.half_width for run in group]):.2f}" for group in groups)
        minutes = sessions * (17 + rounds * 6 * 0.5) / 60
        print(f"| {sessions} x {rounds} | {minutes:.1f} | {widths} | {_share([run.covers for run in groups[1]])} |")


def table_of_cover() -> None:
    """What the interval covers."""
    print(HEAD)
    cases = {
        "processes alike": Noise(),
        "processes differ by 0.4 %": Noise(process_sd=0.004),
        "3 % of blocks 5 % slower": Noise(process_sd=0.004, outliers=0.03),
        "8 % drift that all arms feel": Noise(process_sd=0.004, drift=0.08),
        "20 % mood of a process, an arm feels 0.9": Noise(process_sd=0.004, mood=0.2),
        "the same, switching every 40 blocks": Noise(process_sd=0.004, mood=0.2, mood_blocks=40),
    }
    for name, noise in cases.items():
        for arms in (2, 6):
            protocol = ON_CPU if noise.mood else DEFAULT
            print(_row(f"{name}, {arms} arms", judged_runs(noise, Shape(arms=arms), 1000, SEED + arms, protocol)))
    one = Shape(sessions=1, rounds=60, arms=2)
    print(_row("one process of 60 rounds, 0.4 %", judged_runs(Noise(process_sd=0.004), one, 500, SEED)))


def table_of_asked() -> None:
    """What it gives and costs that an interval nearly as wide as asked for is printed as wide. In brackets without that.

    Of each number of arms: the share of VALID rows, and how many of these cover.
    """
    print("| asked, differ by, % | half-width, 2 arms | 6 arms | " + " | ".join(f"{arms} arms" for arms in ARMS_ASKED) + " |")
    print("| --- | --- | --- |" + " --- |" * len(ARMS_ASKED))
    levels = [(1.0, share, False) for share in (0.2, 0.4, 0.6, 0.8, 1.0, 1.5)]
    levels += [(1.0, share, True) for share in (0.4, 0.8, 1.0)]
    levels += [(0.5, 0.8, False), (0.5, 1.0, False), (0.25, 1.0, False)]
    for asked, share, tails in levels:
        widths, cells = {}, []
        for arms in ARMS_ASKED:
            noise = Noise(min(0.002, asked / 500), process_sd=share * asked / 100, tails=tails)
            runs = judged_runs(noise, Shape(arms=arms), 2000, SEED + arms, replace(DEFAULT, target=asked / 100))
            valid = [run for run in runs if run.verdict == "VALID"]
            mean = [100 * float(np.mean(w)) for w in zip(*((run.half_width, half_width(run.own)) for run in runs), strict=True)]
            widths[arms] = f"±{mean[0]:.2f} (±{mean[1]:.2f})"
            own = f" ({np.mean([holds(run.own, 1.0) for run in valid]):.3f})" if len(valid) >= FEWEST_SHOWN else ""
            covers = _share([run.covers for run in valid]) if own else "too few"
            cells.append(f"{len(valid) / len(runs):.3f}: {covers}{own}")
        name = f"{asked:g}, {share * asked:g}{', heavy tails' if tails else ''}"
        print(f"| {name} | {widths[2]} | {widths[6]} | {' | '.join(cells)} |", flush=True)


def table_of_heat() -> None:
    """Heat that slows the baseline by 4 % and the fastest arm by 2 %, with and without a temperature."""
    print(HEAD)
    cases = {f"{c:.0f} s, temperature told, every process cold": Heated(c, pause=math.inf) for c in CONSTANTS}
    for arms in (2, 6):
        blind = Heated(thermometer=False, arms=arms)
        cases |= {f"{c:.0f} s, no temperature, {arms} arms": replace(blind, constant=c) for c in CONSTANTS}
        cases[f"600 s, no temperature, {arms} arms, blocks scatter by 1 %"] = replace(blind, constant=600.0, block_sd=0.01)
    for minutes in (10, 30):
        name = f"600 s, no temperature, 2 arms, after {minutes} minutes of the same work"
        cases[name] = Heated(600.0, thermometer=False, worked=60.0 * minutes)
    on_cpu = [(c, 2, 0.005) for c in (10.0, 30.0, 60.0, 90.0)] + [(c, 2, 0.01) for c in (30.0, 90.0)]
    for constant, arms, block in (*on_cpu, (60.0, 6, 0.005), (90.0, 6, 0.005), (90.0, 6, 0.01)):
        name = f"CPU, {constant:.0f} s, {arms} arms, blocks scatter by {100 * block:g} %"
        cases[name] = Heated(constant, arms, kind="cpu", thermometer=False, block_sd=block)
    for name, how in cases.items():
        print(_row(name, [heated_run(how, SEED + seed) for seed in range(300)]), flush=True)
    print(
        "\n| no heat, no temperature: blocks, machine and processes scatter by, % | arms | NOT_STEADY |\n| --- | ---: | ---: |"
    )
    for block, machine, process in ((0.2, 2, 0.4), (1, 0.4, 0.4), (10, 0.4, 1)):
        for arms in (2, 6):
            noise = {"block_sd": block / 100, "machine_sd": machine / 100, "process_sd": process / 100}
            how = Heated(arms=arms, thermometer=False, **noise)
            alarms = [heated_run(how, SEED + seed).verdict == "NOT_STEADY" for seed in range(400)]
            print(f"| {block:g}, {machine:g}, {process:g} | {arms} | {_share(alarms)} |", flush=True)


TABLES: dict[str, Callable[[], None]] = {
    "width": table_of_width,
    "cover": table_of_cover,
    "asked": table_of_asked,
    "heat": table_of_heat,
}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or TABLES:
        print(f"\n{TABLES[chosen].__doc__}\n")
        TABLES[chosen]()
