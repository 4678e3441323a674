"""Runs a plan: device by device and model by model, build, time in interleaved rounds, evaluate in one pass, record."""

from __future__ import annotations

import gc
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from rmeeto_bench import __version__
from rmeeto_bench.bench.accuracy import evaluate
from rmeeto_bench.bench.arms import BuiltArm, Setting, Step, build, resident_batches, setting_for
from rmeeto_bench.bench.environment import environment
from rmeeto_bench.bench.plan import BenchPlan, Cell, cells
from rmeeto_bench.bench.store import Store
from rmeeto_bench.bench.summary import Measured, arm_record, failed_arm
from rmeeto_bench.data.find import find_data
from rmeeto_bench.data.image_set import ImageSet
from rmeeto_bench.measure.device import Device, find_devices
from rmeeto_bench.measure.nvml import snapshot
from rmeeto_bench.measure.rounds import CPU_TARGET, RoundsProgress, TimedArm, Watch, measure
from rmeeto_bench.measure.verdict import judge
from rmeeto_bench.models.zoo import config
from rmeeto_bench.profiles import match_profile
from rmeeto_bench.records import Arm, DeviceRecord, RunRecord, save

QUICK_IMAGES = 2000


class Listener(Protocol):
    """Who hears of the progress of a run."""

    def note(self, text: str) -> None:
        """A decision or a warning the user should see."""
        ...

    def stage(self, device: str, model: str, stage: str) -> None:
        """The work moved on to another stage."""
        ...

    def timing(self, progress: RoundsProgress) -> None:
        """A warm-up cycle or a round is done."""
        ...

    def evaluating(self, done: int, total: int) -> None:
        """Images that went through all arms."""
        ...


@dataclass(frozen=True)
class Job:
    """What every part of a running plan needs."""

    plan: BenchPlan
    store: Store
    listener: Listener
    should_stop: Callable[[], bool]


def device_record(device: Device) -> DeviceRecord:
    """A device as the manifest keeps it, with what the driver says if it is a GPU."""
    details = device.details()
    if device.kind == "cuda":
        profile = match_profile(device.name, details.get("memory_gib"))
        details["nvml"] = snapshot(device.id.removeprefix("cuda:"))
        return DeviceRecord(device.id, device.name, device.kind, profile.name if profile else None, details)
    return DeviceRecord(device.id, device.name, device.kind, device.kind, details)


def new_run_id(plan: BenchPlan) -> str:
    """Sortable by time, readable, unique."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{'+'.join(plan.models)}-{secrets.token_hex(2)}"


def run(
    plan: BenchPlan,
    folder: Path,
    listener: Listener,
    *,
    argv: tuple[str, ...] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> RunRecord:
    """Carry out a plan; the manifest in `folder` is brought up to date after every model and device.

    Raises `UnavailableError` for a missing device or backend, `CheckpointError`, `DataError` and `UsageError`.
    """
    devices = find_devices(plan.gpus)
    if plan.gpus == "all" and devices[0].kind == "cpu":
        listener.note("no GPU that torch can use was found: measuring on the CPU")
    with Store.create(folder) as store:
        record = RunRecord(
            run_id=new_run_id(plan),
            created_utc=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            status="running",
            tool_version=__version__,
            argv=argv,
            plan=plan.as_dict(),
            environment=environment(),
            devices=tuple(device_record(device) for device in devices),
            arms=(),
        )
        save(record, folder)
        job = Job(plan, store, listener, should_stop)
        for device in devices:
            for model in plan.models:
                arms, data = _run_model(job, device, model)
                record = replace(record, arms=(*record.arms, *arms), data={**record.data, model: data})
                save(record, folder)
                if should_stop():
                    break
        record = replace(record, status="interrupted" if should_stop() else "complete")
        save(record, folder)
    return record


def _run_model(job: Job, device: Device, model: str) -> tuple[list[Arm], dict[str, Any]]:
    """All ratios of one model on one device."""
    plan, setting = job.plan, setting_for(job.plan, device)
    sized = config(model)
    shape = (sized.in_chans, sized.img_size, sized.img_size)
    images = plan.images or (QUICK_IMAGES if plan.preset == "quick" else None)
    data = find_data(plan.data, shape=shape, num_classes=sized.num_classes, images=images)
    job.listener.stage(device.name, model, "building")
    built: list[BuiltArm] = []
    failed: list[Cell] = []
    batches: list[torch.Tensor] = []
    for cell in cells(plan, model):
        try:
            arm = build(cell, plan, setting)
            batches = batches or resident_batches(arm.model, data, setting, plan.seed)
            Step(arm.forward, batches)()
            built.append(arm)
        except torch.OutOfMemoryError:
            failed.append(cell)
            job.listener.note(f"{cell.name} does not fit into memory at batch {setting.batch_size}")
            torch.cuda.empty_cache()
    records = [failed_arm(cell, setting, "OOM") for cell in failed]
    described: dict[str, Any] = {"name": data.name if data else None, "inputs": "real images" if data else "noise"}
    if not built or built[0].cell.r != 0:
        return [*(failed_arm(arm.cell, setting, "NOT_MEASURED") for arm in built), *records], described
    measured = _measure(job, setting, built, batches, data)
    records = [*(arm_record(arm, setting, measured) for arm in built), *records]
    described["images"] = 0 if measured.labels is None else len(measured.labels)
    del built, batches
    gc.collect()
    return sorted(records, key=lambda arm: arm.r), described


def _measure(job: Job, setting: Setting, built: list[BuiltArm], batches: list[torch.Tensor], data: ImageSet | None) -> Measured:
    device, model = setting.device, built[0].cell.model
    protocol = replace(job.plan.protocol, seed=job.plan.seed)
    if device.kind == "cpu":
        protocol = replace(protocol, target=max(protocol.target, CPU_TARGET))
    timed = [TimedArm(arm.cell.name, Step(arm.forward, batches), setting.batch_size) for arm in built]
    watch = Watch(job.store.add_block, job.listener.timing, job.should_stop)
    job.listener.stage(device.name, model, "timing")
    result = measure(device, timed, built[0].cell.name, protocol, watch)
    labels = None
    trained = [arm for arm in built if arm.provenance is not None]
    if data is not None and trained and not job.should_stop():
        job.listener.stage(device.name, model, "accuracy")
        labels = evaluate(trained, data, setting, job.store, job.listener.evaluating, job.should_stop)
    names = [arm.cell.name for arm in built]
    predictions = {name: job.store.predictions(device.id, name) for name in names}
    return Measured(job.store.rounds(device.id, names), predictions, labels, judge(result, protocol), result)
