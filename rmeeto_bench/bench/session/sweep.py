"""Images/s over the batch size: 1 to 512 in powers of two. A size that doesn't fit is a row that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from rmeeto_bench.bench.session.workload import Workload
from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.measure.rounds import Protocol, TimedArm, Watch, measure

SIZES = tuple(2**power for power in range(10))
KNEE = 0.98  # of the best rate
ROUNDS = (6, 12)  # fewest and most: a knee needs a per cent, not a quarter of one


def size_name(arm: str, size: int) -> str:
    """Id of an arm at a batch size in the blocks of a sweep."""
    return f"{arm}@b{size}"


def measure_sweep(device: Device, workload: Workload, protocol: Protocol, watch: Watch, session: int) -> dict[str, Any]:
    """Time every arm at every size that fits, all sizes of an arm in interleaved rounds.

    Returns the sizes that fit and how the rounds went, by arm. Blocks go to `watch`.
    """
    fewest, most = ROUNDS
    short = replace(protocol, min_rounds=fewest, max_rounds=max(most, fewest), target=max(protocol.target, 0.01))
    result: dict[str, Any] = {"sizes": list(SIZES), "arms": {}}
    for name in workload.names:
        fitting: list[TimedArm] = []
        for size in SIZES:
            try:
                step = workload.step(name, size)
                step()
                fitting.append(TimedArm(size_name(name, size), step, size))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        if not fitting or watch.should_stop():
            break
        ended = measure(device, fitting, fitting[0].name, short, watch, session=session)
        result["arms"][name] = {"fitting": [arm.images for arm in fitting], "rounds": asdict(ended)}
    return result


def knee(rates: Mapping[int, float]) -> int | None:
    """The smallest batch size with at least 98 % of the best rate; None without rates."""
    if not rates:
        return None
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= KNEE * best)
