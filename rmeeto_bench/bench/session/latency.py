"""Latency: the time of single steps, each waited for, as percentiles. At batch 1 only: elsewhere throughput is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.measure.verdict import host_bound
from rmeeto_bench.models.sizes import COMPILE, TIMM, is_other

if TYPE_CHECKING:
    from rmeeto_bench.bench.session.workload import Workload  # which needs torch

FEWEST, MOST = 200, 2000  # p99 needs a few hundred steps to mean anything
SECONDS = 5.0  # per arm
LONGEST = 20.0  # seconds per arm, for steps so slow that this is less than the fewest
CHUNK = 20


def single_steps(
    device: Device, steps: Mapping[str, Callable[[], Any]], should_stop: Callable[[], bool]
) -> dict[str, list[float]]:
    """Wall seconds of single synchronised steps of each arm, the arms in turn in short chunks."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    while waiting := [name for name, seconds in found.items() if not _enough(seconds)]:
        for name in waiting:
            for _ in range(CHUNK):
                if should_stop():
                    return found
                found[name].append(device.time_block(steps[name], 1)[1])
                if sum(found[name]) >= LONGEST:
                    break
    return found


def _enough(seconds: list[float]) -> bool:
    """Whether an arm has its steps. A slow one does not end those of the others."""
    return len(seconds) >= MOST or sum(seconds) >= (SECONDS if len(seconds) >= FEWEST else LONGEST)


def longest_seconds(step: float) -> float:
    """About how many seconds the single steps of an arm will take, from the seconds of one."""
    return min(max(SECONDS, FEWEST * step), LONGEST, MOST * step)


def host_bound_arms(device: Device, workload: Workload) -> set[str]:
    """The arms whose step takes hardly longer at the full batch than at batch 1: launching, not computing, takes the time.

    What may be made for one batch size is not asked: the user's own code, and what is compiled.
    """
    found = set()
    models = {name: name.rpartition("/")[0] for name in workload.names}
    for name in (
        name for name, model in models.items() if model.startswith(TIMM) or not (is_other(model) or model.startswith(COMPILE))
    ):
        seconds = {}
        for batch, steps in ((1, CHUNK), (workload.batch_size, 3)):
            step = workload.step(name, batch)
            device.time_block(step, 2)
            seconds[batch] = device.time_block(step, steps)[0] / steps
        if host_bound(seconds[1], seconds[workload.batch_size]):
            found.add(name)
    return found
