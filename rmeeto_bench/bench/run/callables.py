"""Timing callables that Python hands over: in this process, since they cannot go to another, in one session.

Rounds, telemetry, store and verdicts are those of every run. One process is one session, so the verdict is EXPLORATORY at best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmeeto_bench.bench.environment import environment
from rmeeto_bench.bench.plan.plan import BenchPlan, group_cells
from rmeeto_bench.bench.run.controls import Controls, Telling
from rmeeto_bench.bench.run.devices import chosen_devices, device_record
from rmeeto_bench.bench.run.folder_lock import folder_lock
from rmeeto_bench.bench.run.locks import device_lock
from rmeeto_bench.bench.run.runner import new_run_id
from rmeeto_bench.bench.session.context import Desk, Job
from rmeeto_bench.bench.session.jobs import time_rounds
from rmeeto_bench.bench.store.store import Facts, Probe, Store
from rmeeto_bench.bench.summary.record import assemble
from rmeeto_bench.errors import UsageError, in_one_line
from rmeeto_bench.files import now
from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.measure.protocol import PRESETS
from rmeeto_bench.records.run import RunRecord, save
from rmeeto_bench.version import __version__

Step = Callable[[], Any]
AS_GIVEN = "as given"  # precision, kernels: the callable's own affair


class CallableWorkload:
    """The callables as arms; one that raises at its first call, or later, fails, and the others go on."""

    data_name, views, evaluated = None, 1, 0

    def __init__(self, steps: Mapping[str, Step], baseline: str, batch_size: int) -> None:
        self.baseline, self.batch_size, self._arms = baseline, batch_size, {name: _Step(step) for name, step in steps.items()}
        for arm in self._arms.values():
            arm()

    @property
    def names(self) -> list[str]:
        """The arms that run."""
        return [name for name, arm in self._arms.items() if not arm.failure]

    def step(self, arm: str, batch_size: int, *, noise: bool = False) -> Step:
        """The callable itself, whatever the batch."""
        return self._arms[arm]

    def upstream_step(self, arm: str, batch_size: int) -> Step:
        """The same."""
        return self._arms[arm]

    def facts(self) -> dict[str, Facts]:
        """Nothing is known but what failed."""
        known = Facts(AS_GIVEN, self.batch_size, AS_GIVEN, AS_GIVEN)
        failed = {name: arm.failure for name, arm in self._arms.items()}
        return {name: replace(known, failure="ARM_FAILED" if why else None, failure_detail=why) for name, why in failed.items()}

    def account(self) -> str:
        """Nothing to say."""
        return ""

    def probes(self) -> dict[str, Probe]:
        """No images, no answers."""
        return {}


@dataclass
class _Step:
    """A callable that is not called again once it failed."""

    step: Step  # as given
    failure: str = ""  # why it failed

    def __call__(self) -> Any:
        if self.failure:
            return None
        try:
            return self.step()
        except Exception as error:  # whatever it raises
            self.failure = in_one_line(error)
            return None


def plan_of(steps: Mapping[str, Any], *, baseline: str | None, batch_size: int, preset: str, gpus: str) -> BenchPlan:
    """The plan of these arms: a text is MODULE:FUNCTION, a callable has no name that another process could find."""
    arms = tuple(f"{name}={step if isinstance(step, str) else ''}" for name, step in steps.items())
    given: dict[str, Any] = {"baseline": baseline, "batch_size": batch_size, "preset": preset, "gpus": gpus}
    return BenchPlan(models=(), arms=arms, together=True, **given)


def measure_callables(plan: BenchPlan, folder: Path, steps: Mapping[str, Step], controls: Controls) -> RunRecord:
    """Time them on the plan's one device into a run folder. Raises what a run raises."""
    if PRESETS[plan.preset].sessions != 1:
        one = ", ".join(name for name, protocol in PRESETS.items() if protocol.sessions == 1)
        raise UsageError(
            f"callables stay in this process, so a preset of several processes cannot be kept; choose {one}, or give "
            "MODULE:FUNCTION in place of callables"
        )
    devices = chosen_devices(plan.gpus)
    if len(devices) != 1 or devices[0].kind == "sim":
        raise UsageError("callables are timed on one real device; give gpus='none' or one GPU")
    (device,) = devices
    record = RunRecord(
        *(new_run_id(plan), now(), "running", __version__, ("rb.measure",), plan.as_dict(), environment()),
        devices=(device_record(device),),
        arms=(),
    )
    with folder_lock(folder), device_lock(device.id, controls.note, controls.should_stop), Store.create(folder) as store:
        save(record, folder)
        _time(plan, store, device, steps, controls)
        record = assemble(replace(record, status="complete"), plan, store, {}, {})
        save(record, folder)
    return record


def _time(plan: BenchPlan, store: Store, device: Device, steps: Mapping[str, Step], controls: Controls) -> None:
    (group,) = plan.groups
    session = store.begin_session(device.id, group, "timing", environment())
    job = Job("timing", str(store.path.parent), plan.as_dict(), device.id, group, [])
    telling = Telling(controls.tell, device.name)

    def emit(event: str, **values: Any) -> None:
        telling.hear(0, {"event": event, **values})

    desk = Desk(job, plan, (), device, store, session, emit, controls.should_stop, lambda: "stop")
    baseline = group_cells(plan, group)[0].name
    workload = CallableWorkload({f"{name}/r0": step for name, step in steps.items()}, baseline, plan.batch_size or 1)
    result = time_rounds(desk, workload) | {"noise": False, "inputs": AS_GIVEN}  # of which nothing is known here
    store.end_session(device.id, session, "done", result)
