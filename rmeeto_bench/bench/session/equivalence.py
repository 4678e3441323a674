"""May several GPUs of one machine be timed at once? Only if blocks timed together last as long as blocks timed alone.

They share a processor, power, air and a bus. Before a parallel run each GPU's baseline is timed alone and together with
all others in alternating blocks; two one-sided t tests must place the ratio within half a per cent of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rmeeto_bench.bench.session.context import Desk, prepare
from rmeeto_bench.measure.rounds import TimedArm, Watch
from rmeeto_bench.measure.statistics import t_interval
from rmeeto_bench.measure.warmup import warm_up

MARGIN = 0.005
PAIRS = 12
LEVEL = 0.95  # of each one-sided test: together they are the 90 % interval


def equivalent(alone: Sequence[float], together: Sequence[float], margin: float = MARGIN) -> tuple[bool, str]:
    """Whether paired block times alone and together are the same within `margin`, and the interval that says so."""
    logs = np.log(np.asarray(together, float)) - np.log(np.asarray(alone, float))
    found = t_interval(logs, 2 * LEVEL - 1)
    if found.low is None or found.high is None:
        return False, "too few blocks"
    low, high = 100 * float(np.expm1(found.low)), 100 * float(np.expm1(found.high))
    inside = -100 * margin < low and high < 100 * margin
    return (
        inside,
        f"blocks last {low:+.2f} to {high:+.2f} % longer together than alone, within ±{100 * margin:.1f} % is asked for",
    )


def verdict(times: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> tuple[bool, str]:
    """All devices' (alone, together) times: whether every one is equivalent, and the words for the worst."""
    for device, (alone, together) in times.items():
        passed, words = equivalent(alone, together)
        if not passed:
            return False, f"{device}: {words}"
    return True, f"{len(times)} devices are as fast together as alone, within ±{100 * MARGIN:.1f} %"


def serve_blocks(desk: Desk) -> dict[str, Any]:
    """In a worker: warm the baseline up, then time one block of it whenever the parent says `go`, until it says `stop`."""
    workload = prepare(desk.plan, desk.device, desk.resolved)
    name, batch = workload.names[0], workload.batch_size
    arm = TimedArm(name, workload.step(name, batch), batch)
    telemetry = desk.device.telemetry()
    try:
        warm = warm_up(desk.device, [arm], desk.protocol, Watch(lambda _: None, should_stop=desk.should_stop), telemetry)
    finally:
        telemetry.close()
    desk.emit("ready")
    blocks = 0
    while desk.orders() == "go":
        desk.emit("block", seconds=desk.device.time_block(arm.step, warm.steps[name])[0])
        blocks += 1
    return {"blocks": blocks}
