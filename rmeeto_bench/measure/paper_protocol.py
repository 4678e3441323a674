"""The paper's own way of timing, replayed beside ours, so that a deviation splits into protocol and hardware.

Per model: 100 warm-up forwards, synchronise, wall clock around 30 forwards and a synchronisation, one number without a
spread; the unmerged model first, then the merged ones (the paper's code; specification section 5.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.measure.protocol import TimedArm

WARM_UPS, FORWARDS = 100, 30


def replay_paper_protocol(
    device: Device, arms: Sequence[TimedArm], baseline: str, *, on_arm: Callable[[str], None] = lambda _: None
) -> dict[str, float]:
    """Images/s of each arm as the paper's code would print it, the baseline measured first, then the others in order.

    `on_arm` hears the name of each arm before it begins. The steps bring precision and batch size with them.
    """
    ordered = sorted(arms, key=lambda arm: arm.name != baseline)
    rates = {}
    for arm in ordered:
        on_arm(arm.name)
        device.time_block(arm.step, WARM_UPS)
        _, wall = device.time_block(arm.step, FORWARDS)
        rates[arm.name] = arm.images * FORWARDS / wall
    return rates
