"""Images/s over the batch size: 1 to 512 in powers of two. A size that does not fit has a row without a rate."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rmeeto_bench.bench.plan.plan import ROUNDS, SIZES, size_name
from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.measure.rounds import TimedArm, TimingProtocol, Watch, measure

if TYPE_CHECKING:
    from rmeeto_bench.bench.session.workload import Workload  # which needs torch


def measure_sweep(device: Device, workload: Workload, protocol: TimingProtocol, watch: Watch, session: int) -> dict[str, Any]:
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
            except RuntimeError as error:
                import torch  # whose error it is; a simulated device does without

                if not isinstance(error, torch.OutOfMemoryError):
                    raise
                torch.cuda.empty_cache()
        if not fitting or watch.should_stop():
            break
        ended = measure(device, fitting, fitting[0].name, short, watch, session=session)
        result["arms"][name] = {"fitting": [arm.images for arm in fitting], "rounds": asdict(ended)}
    return result
