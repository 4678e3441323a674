"""A worker's job and the context it runs in: device, arms, and the channel to the parent.

A job is one line of JSON on the worker's standard input, events are lines of JSON on its standard output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rmeeto_bench.bench.plan.plan import BenchPlan, baseline_first, protocol_for
from rmeeto_bench.bench.plan.resolve import Resolved
from rmeeto_bench.bench.session.simulated import SimulatedWorkload
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.errors import SlowPathError, UnavailableError
from rmeeto_bench.measure.devices.device import Device, find_devices
from rmeeto_bench.measure.protocol import RoundsProgress, TimingProtocol

if TYPE_CHECKING:
    from rmeeto_bench.bench.session.workload import Workload  # which needs torch


@dataclass(frozen=True)
class Job:
    """One fresh process's work."""

    kind: str  # timing, accuracy, ...: a name in `jobs.WORK`
    folder: str  # of the run
    plan: dict[str, Any]  # as `BenchPlan.as_dict` writes it
    device: str  # id of the device it works on
    model: str  # a model of the plan, or the name of a group of them
    resolved: list[dict[str, Any]]  # the arms and weights of these models, as `Resolved.as_dict` writes them
    session: int = 0  # sessions of this kind, device and group before it
    workers: int | None = None  # processes that decode images; None: one per core
    # (i, n): this is the i-th of n processes that share an accuracy pass
    shard: tuple[int, int] = (0, 1)
    owner: str = ""  # id of the device whose work it is, under which it is stored; empty: `device`
    threads: int | None = None  # of the process's host code; None: as many as its kind of work has
    protocol: dict[str, Any] | None = None  # how long and how often to measure; None: by the plan's preset
    turns: str = ""  # the process's place with a referee of turns, as `measure.turns.VARIABLE` takes it; empty: none

    def as_line(self) -> str:
        """For the worker's standard input."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Job:
        """What `as_line` wrote."""
        value = json.loads(line)
        return cls(**{**value, "shard": tuple(value["shard"])})


@dataclass(frozen=True)
class Desk:
    """What a job works with."""

    job: Job  # what there is to do
    plan: BenchPlan  # of the run
    resolved: tuple[Resolved, ...]  # the arms of the job's models
    device: Device  # this process's own
    store: Store  # of the run
    session: int  # number of its session
    emit: Callable[..., None]  # tells the parent an event
    should_stop: Callable[[], bool]  # whether the parent asked for the end
    orders: Callable[[], str]  # waits for the parent's next word

    @property
    def owner(self) -> str:
        """Id of the device under which everything is stored."""
        return self.job.owner or self.job.device

    @property
    def protocol(self) -> TimingProtocol:
        """How long and how often to measure."""
        given = self.job.protocol
        if given is None:
            return protocol_for(self.plan, self.device.kind)
        return TimingProtocol(**{**given, "reject": tuple(given["reject"])})

    def note(self, text: str) -> None:
        """Tell the user something."""
        self.emit("note", text=text)

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


def prepare(plan: BenchPlan, device: Device, resolved: Sequence[Resolved], workers: int | None = None) -> Workload:
    """The arms of a job, built; `workers` processes decode its images.

    Raises `SlowPathError` where kernels asked for by name cannot run.
    """
    if device.kind == "sim":
        return SimulatedWorkload(plan, device, baseline_first(plan, [cell for model in resolved for cell in model.cells]))
    from rmeeto_bench.bench.session.workload import ModelWorkload

    try:
        return ModelWorkload(plan, device, resolved, workers)
    except UnavailableError as error:
        if plan.backend == "auto":
            raise
        raise SlowPathError(str(error)) from error
