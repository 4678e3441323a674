"""The rate that a GPU can attain at each ratio, and the share of it that a run reached."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmeeto_bench.errors import MeasurementError, UsageError
from rmeeto_bench.models.sizes import config
from rmeeto_bench.profiles import profile_named

if TYPE_CHECKING:
    from rmeeto_bench.profiles import GpuProfile
    from rmeeto_bench.records.run import Arm, Estimate, RunRecord

HALF = ("fp16", "bf16")


@dataclass(frozen=True)
class RooflineArm:
    """One arm on the roofline."""

    reduction_ratio: float  # reached, not asked for
    limit: float  # images/s of ideal kernels at the datasheet's rates
    tuned: float  # images/s of usual kernels at usual rates
    intensity: float  # operations per byte of DRAM traffic
    giga_operations: float  # of one image
    ceilings: dict[str, float]  # unit -> 10^12 operations/s at which this unit alone would stop the arm
    achieved: Estimate | None = None  # images/s that were measured


@dataclass(frozen=True)
class Case:
    """One line of the roofline table before it is worked out."""

    profile: GpuProfile  # datasheet rates of the GPU
    device: str  # name that the row carries in the table
    model: str  # name in `models.sizes.MODELS`
    r: int  # tokens that each merge removes, 0 for the plain model
    batch_size: int  # images per batch
    achieved: Estimate | None = None  # images/s that a run measured; None: nothing was measured
    verdict: str = ""  # of that measurement; empty if there is none


def why_not(arm: Arm, profile: GpuProfile | None) -> str:
    """Why an arm of a run cannot be placed on the roofline; empty if it can."""
    from rmeeto_bench.cost.traffic import model_operations
    from rmeeto_bench.reduction.config import ReductionConfig
    from rmeeto_bench.reduction.schedule import token_counts

    if profile is not None and not profile.multiprocessors:
        return "the limits are those of GPUs, and this was measured on a CPU"
    if profile is None:
        return "no rates are known for this device; describe it in profiles/ or name one with --gpu"
    if not arm.token_counts:
        return "the operations of this model are not known"
    if arm.images_per_second is None:
        return f"nothing measured ({arm.verdict})"
    if arm.precision not in HALF:
        return f"the limits are for half precision, and this arm ran in {arm.precision}"
    try:
        sized = config(arm.model)
        model_operations(sized, ReductionConfig(r=arm.r), arm.batch_size)
    except UsageError as error:
        return str(error)
    if token_counts(ReductionConfig(r=arm.r), depth=sized.depth, initial_tokens=sized.num_tokens) != arm.token_counts:
        return "the limits are worked out for the paper's merging, and this arm has other tokens per block"
    return ""


def measured(record: RunRecord, gpu: str | None) -> list[Case]:
    found, skipped = [], {}
    for arm in record.arms:
        device, label = record.device(arm.device), record.label(arm.device)
        name = device.profile or gpu
        profile = None if name is None else profile_named(name)
        reason = why_not(arm, profile)
        if reason or profile is None:
            skipped[f"{label}, {arm.arm}"] = reason
        else:
            found.append(Case(profile, label, arm.model, arm.r, arm.batch_size, arm.images_per_second, arm.verdict))
    for arm_name, reason in skipped.items():
        print(f"left out: {arm_name}: {reason}", file=sys.stderr)
    if not found:
        raise MeasurementError(f"run {record.run_id} has no arm with a known limit; see the reasons above")
    return found


def work_out(case: Case) -> tuple[dict[str, Any], RooflineArm]:
    """The row of a case, and its place in the figure."""
    from rmeeto_bench.cost.flops import operations, published_gflops
    from rmeeto_bench.cost.roofline import TUNED, limit, share_of_peak
    from rmeeto_bench.cost.traffic import model_operations
    from rmeeto_bench.reduction.config import ReductionConfig
    from rmeeto_bench.reduction.schedule import reduction_ratio, token_counts

    sized, reduction = config(case.model), ReductionConfig(r=case.r)
    kernels = model_operations(sized, reduction, case.batch_size, "ideal")
    bounds = limit(kernels, case.profile)
    rate = bounds.images_per_second(case.batch_size)
    tuned = limit(model_operations(sized, reduction, case.batch_size, "fused"), case.profile, TUNED)
    ratio = reduction_ratio(
        token_counts(reduction, depth=sized.depth, initial_tokens=sized.num_tokens),
        sized.num_tokens,
    )
    conventions = {"paper-mac": published_gflops(sized, reduction), "flop": operations(sized, reduction)}
    dram = sum(kernel.dram_bytes for kernel in kernels)
    row: dict[str, Any] = {"device": case.device, "gpu": case.profile.name, "model": case.model, "r": case.r}
    row |= {"reduction_ratio": ratio, "batch_size": case.batch_size, "limit_images_per_second": rate, "bound": bounds.bound}
    row |= {"overlapped_images_per_second": case.batch_size / bounds.overlapped}
    row |= {"tuned_images_per_second": tuned.images_per_second(case.batch_size), "gflops": conventions}
    row |= {"dram_megabytes_per_image": dram / case.batch_size / 1e6, "kernels": bounds.launches}
    row |= {"unit_milliseconds": {unit: 1e3 * seconds for unit, seconds in bounds.unit_seconds.items()}}
    row["limit_share_of_peak"] = {name: share_of_peak(rate, value, case.profile) for name, value in conventions.items()}
    if case.achieved is not None:
        reached = case.achieved.value
        row |= {"images_per_second": reached, "share_of_limit": reached / rate, "verdict": case.verdict}
        row["share_of_peak"] = {name: share_of_peak(reached, value, case.profile) for name, value in conventions.items()}
    total = case.batch_size * conventions["flop"] / 1000
    ceilings = {unit: total / bounds.unit_seconds[unit] for unit in ("exp (SFU)", "fp32")}
    intensity = 1e9 * conventions["flop"] * case.batch_size / dram
    return row, RooflineArm(
        ratio, rate, row["tuned_images_per_second"], intensity, conventions["flop"], ceilings, case.achieved
    )
