"""Joules per image of the arms of a stored run, from the energy counter around every timed block. No torch.

Blocks of different arms alternate, so this is the energy of a mixed load; `measure.energy` is stricter: an arm alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmeeto_bench.bench.store import Store
from rmeeto_bench.measure.statistics import wilcoxon_interval
from rmeeto_bench.records import Block, Estimate, RunRecord

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


def energy_of_run(folder: Path, record: RunRecord) -> dict[tuple[str, str, str], Estimate]:
    """(run id, device, arm) -> J/image, for arms whose energy was counted and agrees with the power readings."""
    found = {}
    with Store.open(folder) as store:
        for device in record.devices:
            blocks = [block for block in store.blocks(device.id) if not block.rejected_reason]
            for arm in (arm for arm in record.arms if arm.device == device.id):
                value = _joules([block for block in blocks if block.arm == arm.arm])
                if value is not None:
                    found[record.run_id, device.id, arm.arm] = value
    return found
