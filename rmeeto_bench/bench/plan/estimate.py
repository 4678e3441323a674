"""What a plan would do and about how long it would take, without doing it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rmeeto_bench.bench.plan.plan import (
    ROUNDS,
    SIZES,
    TRAIN,
    BenchPlan,
    Cell,
    batch_size_for,
    cells,
    group_cells,
    precision_for,
    protocol_for,
)
from rmeeto_bench.cost.flops import count_flops
from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.measure.energy import LEAST_SECONDS
from rmeeto_bench.measure.protocol import blind_seconds
from rmeeto_bench.measure.warmup import BLIND_LIMIT
from rmeeto_bench.models.sizes import config, is_other
from rmeeto_bench.profiles import GpuProfile, load_profiles, match_profile
from rmeeto_bench.records.run import DeviceRecord
from rmeeto_bench.reduction.config import ReductionConfig

EFFICIENCY = 0.04  # share of the dense fp16 peak; Table 12's baselines lie between 0.02 (H100) and 0.10 (RTX 4090)
MATCHING = 0.207  # matching and merging cost this share of the baseline, whatever r: Table 12's RTX 4090 column gives it
LAUNCH = 1e-3  # seconds a step takes however small the batch
ENERGY_SECONDS = 3 * LEAST_SECONDS + 5  # of an arm: three contiguous runs and their warm-up
START = 8.0  # seconds from starting a process to its first block: imports, building, lazy initialisation


def profile_of(device: Device) -> GpuProfile:
    """The GPU a simulated device stands for."""
    name = device.id.removeprefix("sim:")
    return next(profile for profile in load_profiles() if profile.name == name)


def baseline_rate(profile: GpuProfile, model: str) -> float:
    """Images/s to plan with where nothing was measured: a guess within a factor of three; NaN for an unknown device."""
    if not profile.fp16_tflops:
        return math.nan
    return 1000 * EFFICIENCY * profile.fp16_tflops / (2 * count_flops(config(model), ReductionConfig(), "bidirectional").layers)


def true_seconds(cell: Cell, profile: GpuProfile, batch_size: int) -> float:
    """Seconds of one step of a simulated arm."""
    sized = config(cell.model)
    rate = 1000 * EFFICIENCY * profile.fp16_tflops  # GFLOP/s
    baseline = 2 * count_flops(sized, ReductionConfig(), "bidirectional").layers / rate
    layers = 2 * count_flops(sized, cell.reduction, "bidirectional").layers / rate
    return LAUNCH + batch_size * (layers + (MATCHING * baseline if cell.r else 0.0))


def timing_seconds(plan: BenchPlan, kind: str, arms: int) -> tuple[float, float]:
    """Least and most seconds of all timing sessions of `arms` arms on a device; a simulated one needs only the starts."""
    protocol = protocol_for(plan, kind)
    if kind == "sim":
        return protocol.sessions * START, protocol.sessions * START
    arms *= 2 if plan.inputs == "both" else 1
    longest = max(protocol.max_rounds * arms * protocol.block_seconds, protocol.block_seconds)
    least = protocol.warmup_seconds + min(protocol.min_rounds * arms * protocol.block_seconds, protocol.time_limit)
    most = protocol.warmup_limit + min(longest, protocol.time_limit + arms * protocol.block_seconds)
    waits = [blind_seconds(protocol, kind, worked) for worked in (0.0, *[math.inf] * (protocol.sessions - 1))]
    blind = sum(waits) if kind == "cpu" else 0.0
    return protocol.sessions * (START + least) + blind, protocol.sessions * (START + most) + BLIND_LIMIT * blind


def _extras(plan: BenchPlan, kind: str, arms: int) -> tuple[float, float]:
    """The batch sweep and energy; the paper's protocol and the accuracy pass depend on a speed that is not known yet."""
    alone = arms * ENERGY_SECONDS if plan.energy and kind != "sim" else 0.0
    if not plan.sweep or kind == "sim":
        return alone, alone
    protocol = protocol_for(plan, kind)
    one = protocol.warmup_seconds + ROUNDS[0] * len(SIZES) * protocol.block_seconds
    most = protocol.warmup_limit + ROUNDS[1] * len(SIZES) * protocol.block_seconds
    return alone + START + arms * one, alone + START + arms * most


def minutes(seconds: float) -> str:
    """A time to plan with."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _unknown(plan: BenchPlan, device: DeviceRecord, models: Sequence[str], arms: int) -> str:
    """What comes on top and is not in the estimate."""
    parts = []
    rate = math.nan
    if device.kind == "cuda":
        profile = match_profile(device.name, device.details.get("memory_gib"))
        alone = models[0] if len(models) == 1 and not is_other(models[0]) else None
        rate = math.nan if profile is None or alone is None else baseline_rate(profile, alone)
    if plan.paper_mode:
        parts.append("the paper's protocol" + ("" if math.isnan(rate) else f" (about {minutes(arms * 130 * 128 / rate)})"))
    if plan.fed:
        parts.append(f"the whole pipeline ({minutes(60 * (arms + 1))} at most)")  # passes of each arm and two parts: `fed.py`
    if device.kind != "sim" and plan.checkpoints != "none" and plan.what != TRAIN:
        count = plan.evaluated_images
        parts.append(f"the accuracy pass ({'all' if count is None else count} images through {arms} arms, if there is data)")
    return " and ".join(parts)


def _ratios(found: Sequence[Cell]) -> str:
    return ", ".join(f"{cell.reduction_ratio:.3f} (r={cell.r})" for cell in found)


def outline(plan: BenchPlan, devices: Sequence[DeviceRecord]) -> list[str]:
    """Lines that say what would be measured, on what, and how long."""
    lines, total, timed = [], [0.0, 0.0], not plan.accuracy_only
    for device in devices:
        protocol = protocol_for(plan, device.kind)
        fewest, most = protocol.min_rounds, protocol.max_rounds
        rounds = (
            f"{protocol.sessions} sessions of {most if fewest == most else f'{fewest} to {most}'} rounds, " if timed else ""
        )
        precision, batch = precision_for(plan, device.kind), batch_size_for(plan, device.kind)
        lines.append(f"{device.name} ({device.id}): {rounds}{precision}, batch {batch}, {plan.backend} kernels")
        for group, models in plan.groups.items():
            arms = len(group_cells(plan, group))
            spans = (timing_seconds(plan, device.kind, arms), _extras(plan, device.kind, arms))
            low, high = (sum(values) for values in zip(*spans))
            total = [total[0] + low, total[1] + high]
            for model in models:
                lines.append(f"  {model}: " + ("as it is" if is_other(model) else f"ratios {_ratios(cells(plan, model))}"))
            if plan.together:
                lines.append(f"    in the same rounds, over {group_cells(plan, group)[0].name}")
            if timed:
                lines.append(f"    {minutes(low)} to {minutes(high)}")
            unknown = _unknown(plan, device, models, arms)
            if unknown:
                lines.append(f"    {'and ' if timed else ''}{unknown}")
    return (
        [*lines, f"timing in all: {minutes(total[0])} to {minutes(total[1])}, one device after the other"] if timed else lines
    )
