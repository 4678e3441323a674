"""A worker's job and the context it runs in: device, arms, and the channel to the parent.

A job is one line of JSON on the worker's standard input, events are lines of JSON on its standard output.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.plan.resolve import Resolved
from rmeeto_bench.bench.session.simulated import SimulatedWorkload
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.errors import SlowPathError, UnavailableError
from rmeeto_bench.measure.devices.device import Device, find_devices
from rmeeto_bench.measure.rounds import RoundsProgress

if TYPE_CHECKING:
    from rmeeto_bench.bench.session.workload import Workload  # which needs torch


@dataclass(frozen=True)
class Job:
    """One fresh process's work: a kind, on one device (by id) and one model of a plan, for the run in `folder`.

    `resolved`: the model's arms and weights, as `Resolved.as_dict` writes them. `session` is the number of sessions of this
    kind, device and model before it; `workers`: processes that decode images.
    """

    kind: str
    folder: str
    plan: dict[str, Any]
    device: str
    model: str
    resolved: dict[str, Any]
    session: int = 0
    workers: int | None = None

    def as_line(self) -> str:
        """For the worker's standard input."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Job:
        """What `as_line` wrote."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Desk:
    """What a job works with: the plan, the arms of its model, its device, the store, its session's number, and the way to its
    parent."""

    job: Job
    plan: BenchPlan
    resolved: Resolved
    device: Device
    store: Store
    session: int
    emit: Callable[..., None]
    should_stop: Callable[[], bool]
    orders: Callable[[], str]

    def stage(self, name: str) -> None:
        """Tell the parent what is being done."""
        self.emit("stage", device=self.device.name, model=self.job.model, stage=name)

    def progress(self, progress: RoundsProgress) -> None:
        """Tell the parent where the rounds are."""
        self.emit("timing", **asdict(progress))


def own_device(device_id: str, plan: BenchPlan, session: int) -> Device:
    """The device this process was made for; a GPU is the only one it can see.

    Raises `UnavailableError` if it is not there any more.
    """
    kind = device_id.partition(":")[0]
    if kind == "sim":
        return find_devices(device_id, seed=plan.seed, session=session)[0]
    found = find_devices("none" if kind == "cpu" else "all")
    for device in found:
        if device.id == device_id:
            return device
    raise UnavailableError(f"{device_id} is not there any more; check nvidia-smi and continue with --resume")


def prepare(plan: BenchPlan, device: Device, resolved: Resolved) -> Workload:
    """The arms of a job, built. Raises `SlowPathError` where kernels asked for by name cannot run."""
    if device.kind == "sim":
        return SimulatedWorkload(plan, device, resolved.model)
    from rmeeto_bench.bench.session.workload import ModelWorkload

    try:
        return ModelWorkload(plan, device, resolved)
    except UnavailableError as error:
        if plan.backend == "auto":
            raise
        raise SlowPathError(str(error)) from error
