"""In a worker: a model measured against itself, which shows how far two measurements of one program differ."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rmeeto_bench.bench.session.context import Desk, prepare
from rmeeto_bench.measure.protocol import TimedArm
from rmeeto_bench.measure.rounds import Watch, measure

ARM, TWIN, UNOBSERVED = "A", "A'", "A without telemetry"  # the same program three times


def run_noise(desk: Desk) -> dict[str, Any]:
    """Time the program as it is, a second copy of it, and the first again without telemetry, in interleaved rounds."""
    desk.stage("noise: building")
    one, other = (prepare(desk.plan, desk.device, desk.resolved) for _ in range(2))
    name, batch = one.names[0], one.batch_size
    first, second = one.step(name, batch), other.step(name, batch)
    arms = [
        TimedArm(ARM, first, batch),
        TimedArm(TWIN, second, batch),
        TimedArm(UNOBSERVED, first, batch, observed=False),
    ]
    desk.stage("noise: timing")
    watch = Watch(desk.store.add_block, desk.progress, desk.should_stop)
    return {"rounds": asdict(measure(desk.device, arms, ARM, desk.protocol, watch, session=desk.session))}
