"""What merging gains in a run whose arms are compared with another model's: speed-ups over their own r = 0, from its rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rmeeto_bench.measure.statistics import complete_rounds, run_speedup
from rmeeto_bench.measure.verdict import FEWEST_ROUNDS
from rmeeto_bench.records.run import Block, Estimate, RunRecord


def speedups_over_own(record: RunRecord, blocks: Mapping[str, Sequence[Block]]) -> dict[tuple[str, str, str], Estimate]:
    """(run id, device, arm) -> speed-up over r = 0 of the same model, of arms that were timed beside it. `blocks`: device id ->
    its blocks."""
    found = {}
    for arm in record.arms:
        if arm.images_per_second is None or not arm.token_counts:
            continue
        value = arm.speedup if arm.is_over_own else _paired(blocks.get(arm.device, ()), f"{arm.model}/r0", arm.arm)
        if value is not None:
            found[record.run_id, arm.device, arm.arm] = value
    return found


def _paired(blocks: Sequence[Block], first: str, other: str) -> Estimate | None:
    """How many times faster the other arm is in the rounds that both ran; None for too few of them."""
    sessions = [times for times in complete_rounds(blocks, [first, other]) if times[first]]
    if sum(len(times[first]) for times in sessions) < FEWEST_ROUNDS:
        return None
    return run_speedup([times[first] for times in sessions], [times[other] for times in sessions])
