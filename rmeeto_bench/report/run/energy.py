"""Joules per image of the arms of a stored run, from the energy counter around every timed block.

Blocks of different arms alternate, so this is the energy of a mixed load; where the run measured arms alone (`--energy`), that
stands instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rmeeto_bench.measure.statistics import wilcoxon_interval
from rmeeto_bench.records.run import Block, Estimate, RunRecord

AGREEMENT = 0.10  # between the counter and power integrated over time; beyond it neither is to be trusted
FEWEST = 3  # blocks


def _joules(blocks: Sequence[Block]) -> Estimate | None:
    known = [b for b in blocks if b.telemetry.get("energy_j") and b.telemetry.get("energy_integrated_j")]
    if len(known) < FEWEST:
        return None
    counter = sum(float(b.telemetry["energy_j"]) for b in known)
    integrated = sum(float(b.telemetry["energy_integrated_j"]) for b in known)
    if abs(integrated / counter - 1) > AGREEMENT:
        return None
    return wilcoxon_interval([float(b.telemetry["energy_j"]) / b.images for b in known])


def energy_of_run(record: RunRecord, blocks: Mapping[str, Sequence[Block]]) -> dict[tuple[str, str, str], Estimate]:
    """(run id, device, arm) -> J/image, for arms whose energy was counted and agrees with the power readings. `blocks`: device
    id -> its blocks."""
    found = {}
    for arm in record.arms:
        value = arm.joules_per_image or _joules(
            [b for b in blocks.get(arm.device, ()) if b.arm == arm.arm and not b.rejected_reason]
        )
        if value is not None:
            found[record.run_id, arm.device, arm.arm] = value
    return found
