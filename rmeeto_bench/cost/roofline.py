"""The shortest time a GPU needs for a list of operations, and which of its units sets that limit.

Takes numbers and a `GpuProfile`, never models. Assumptions, all of them in favour of the hardware so that the result is
a limit: every rate is the datasheet's (tensor cores in fp16 with fp32 accumulation, boost clock, DRAM bandwidth);
inside an operation its units work side by side, so it takes as long as its busiest unit; operations follow each other
without a gap (`seconds`), or overlap perfectly (`overlapped`). Special functions are ex2, lg2 and rcp, 16 per clock and
multiprocessor from Volta to Hopper (CUDA programming guide, throughput of arithmetic instructions). A warp instruction
takes one of four issue slots per clock and multiprocessor. An fp32 operation is one lane of a multiply-add, and a
datasheet counts two for it. The cost of a launch is not part of a profile; it is added to the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rmeeto_bench.errors import UsageError
from rmeeto_bench.profiles import GpuProfile

UNITS = ("bandwidth", "tensor cores", "fp32", "exp (SFU)", "issue")
ISSUE_SLOTS = 4  # warp instructions per clock and multiprocessor on every GPU since Volta
LAUNCH_SECONDS = 2e-6  # between two kernels of a CUDA graph; an estimate, used only to say when launches set the pace


@dataclass(frozen=True)
class Operation:
    """The work of one kernel on one batch."""

    name: str  # of the kernel
    dram_bytes: float  # bytes read from DRAM and written to it
    tensor_operations: float = 0.0  # on the tensor cores, two per multiply-add
    fp32_operations: float = 0.0  # lane operations; a multiply-add is one
    special_functions: float = 0.0  # ex2, lg2 and rcp
    warp_instructions: float = 0.0  # 0 where they were not counted


@dataclass(frozen=True)
class Efficiency:
    """Which part of the datasheet's rates is reached."""

    bandwidth: float = 1.0  # share of the DRAM bandwidth
    tensor: float = 1.0  # share of the tensor cores' fp16 rate
    fp32: float = 1.0  # share of the fp32 rate
    special: float = 1.0  # share of the special-function units' rate
    issue: float = 1.0  # share of the issue slots
    launch_seconds: float = 0.0  # gap between two kernels


DATASHEET = Efficiency()
# What tuned Triton kernels and cuBLAS usually reach; an estimate for orientation, not a limit.
TUNED = Efficiency(0.80, 0.55, 0.65, 0.70, 0.65, LAUNCH_SECONDS)


@dataclass(frozen=True)
class Limit:
    """What bounds the work on one batch."""

    seconds: float  # time if the operations run one after the other, gaps included
    overlapped: float  # seconds if everything overlaps perfectly: the time of the busiest unit
    launches: int  # number of operations
    bound: str  # unit that takes most of `seconds`; launch if starting the kernels takes longer than running them
    unit_seconds: dict[str, float]  # unit -> seconds it needs for the whole list

    def images_per_second(self, batch_size: int) -> float:
        """The limit as a rate."""
        return batch_size / self.seconds


def _times(operation: Operation, profile: GpuProfile, reached: Efficiency) -> tuple[float, ...]:
    """Seconds that each of `UNITS` needs for an operation."""
    clocks = profile.multiprocessors * profile.boost_mhz * 1e6
    return (
        operation.dram_bytes / (profile.bandwidth_gbs * 1e9 * reached.bandwidth),
        operation.tensor_operations / (profile.fp16_tflops * 1e12 * reached.tensor),
        2 * operation.fp32_operations / (profile.fp32_tflops * 1e12 * reached.fp32),
        operation.special_functions / (profile.sfu_per_clock * clocks * reached.special),
        operation.warp_instructions / (ISSUE_SLOTS * clocks * reached.issue),
    )


def limit(operations: Sequence[Operation], profile: GpuProfile, reached: Efficiency = DATASHEET) -> Limit:
    """The limit of a batch's operations. Raises `UsageError` for a profile without rates (a processor's)."""
    if not (profile.multiprocessors and profile.bandwidth_gbs and profile.fp16_tflops and profile.fp32_tflops):
        raise UsageError(f"profile {profile.name} has no rates, so it has no limit; `rmeeto-bench profiles` lists those with")
    busiest = dict.fromkeys(UNITS, 0.0)
    totals = dict.fromkeys(UNITS, 0.0)
    for operation in operations:
        times = dict(zip(UNITS, _times(operation, profile, reached), strict=True))
        slowest = max(times, key=lambda unit: times[unit])
        busiest[slowest] += times[slowest]
        for unit, seconds in times.items():
            totals[unit] += seconds
    running = sum(busiest.values())
    gaps = len(operations) * reached.launch_seconds
    launching = len(operations) * (reached.launch_seconds or LAUNCH_SECONDS)
    bound = "launch" if launching > running else max(busiest, key=lambda unit: busiest[unit])
    return Limit(running + gaps, max(totals.values()), len(operations), bound, totals)


def share_of_peak(images_per_second: float, giga_operations_per_image: float, profile: GpuProfile) -> float:
    """The share of the dense fp16 tensor-core peak that a rate reaches, in the convention that counted the image."""
    return images_per_second * giga_operations_per_image / (1000 * profile.fp16_tflops)
