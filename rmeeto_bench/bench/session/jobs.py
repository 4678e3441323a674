"""What each kind of job does in its worker process: timing, the paper's protocol, the batch sweep, energy, accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmeeto_bench.bench.environment import environment
from rmeeto_bench.bench.plan.plan import TRAIN, BenchPlan
from rmeeto_bench.bench.plan.resolve import Resolved
from rmeeto_bench.bench.session.context import Desk, Job, own_device, prepare
from rmeeto_bench.bench.session.equivalence import serve_blocks
from rmeeto_bench.bench.session.fed import run_fed
from rmeeto_bench.bench.session.forecast import Forecast
from rmeeto_bench.bench.session.latency import host_bound_arms, single_steps
from rmeeto_bench.bench.session.noise import run_noise
from rmeeto_bench.bench.session.progress import PassProgress
from rmeeto_bench.bench.session.sweep import measure_sweep
from rmeeto_bench.bench.session.trace import run_trace
from rmeeto_bench.bench.store.store import NOISE, Store
from rmeeto_bench.measure.energy import joules_per_image, measure_energy
from rmeeto_bench.measure.paper_protocol import replay_paper_protocol
from rmeeto_bench.measure.protocol import blind_seconds
from rmeeto_bench.measure.rounds import TimedArm, Watch, measure
from rmeeto_bench.measure.warmup import warm_up

if TYPE_CHECKING:
    from rmeeto_bench.bench.session.workload import Workload  # which needs torch

PAPER_BATCH = 128


def _keep_facts(desk: Desk, workload: Workload, bound: Collection[str] = ()) -> None:
    for name, known in workload.facts().items():
        facts = replace(known, host_bound=name in bound)
        desk.store.add_facts(desk.owner, desk.session, name, facts.as_dict())
        if facts.failure == "OOM":
            desk.note(f"{name} does not fit into memory at batch {facts.batch_size}")
        if facts.failure == "ARM_FAILED" and desk.job.session == 0 and (desk.job.kind == "timing" or desk.plan.accuracy_only):
            desk.note(f"{name} failed: {facts.failure_detail}")


def _say_views(desk: Desk, batch: int, views: int) -> None:
    """What a batch becomes for a model of clips."""
    from rmeeto_bench.bench.session.accuracy_pass import clips_at_once

    together = clips_at_once(batch, views)
    text = f"timed on one view of each clip, {batch} at a time; evaluated on all {views} views, {together * views} at a time"
    desk.note(f"{desk.job.model} is {text}")


def run_timing(desk: Desk) -> dict[str, Any]:
    """Warm up and time all arms in interleaved rounds; then let each answer the probe images, and at batch 1 time single
    steps."""
    desk.stage(f"session {desk.job.session + 1}: building")
    began = time.monotonic()
    return time_rounds(desk, prepare(desk.plan, desk.device, desk.resolved), began)


def time_rounds(desk: Desk, workload: Workload, began: float | None = None) -> dict[str, Any]:
    """The rounds of arms that are built, in this process. began: when building did, on the monotonic clock."""
    _keep_facts(desk, workload)
    described = {"data": workload.data_name, "noise": workload.data_name is None or desk.plan.inputs == "random"}
    if workload.baseline not in workload.names:
        return {**described, "rounds": None}
    if desk.job.session == 0 and (account := workload.account()):
        desk.note(account)
    batch = workload.batch_size
    if workload.views > 1 and desk.job.session == 0:
        _say_views(desk, batch, workload.views)
    arms = [TimedArm(name, workload.step(name, batch), batch) for name in workload.names]
    if desk.plan.inputs == "both":
        arms += [TimedArm(name + NOISE, workload.step(name, batch, noise=True), batch) for name in workload.names]
    desk.stage(f"session {desk.job.session + 1}: timing")
    protocol = desk.protocol
    protocol = replace(protocol, blind_seconds=blind_seconds(protocol, desk.device.kind, desk.store.worked(desk.device.id)))
    keep, singles = desk.store.add_block, batch == 1 and desk.plan.what != TRAIN
    if desk.job.session == 0 and desk.device.kind != "sim":  # whose clock is not ours
        told = Forecast(protocol, len(arms), workload.evaluated, keep, desk.note, began or time.monotonic(), singles)
        keep = told.add_block
    watch = Watch(keep, desk.progress, desk.should_stop)
    result = measure(desk.device, arms, workload.baseline, protocol, watch, session=desk.session)
    bound: set[str] = set()
    if not desk.should_stop():
        if desk.device.kind != "cpu" and batch > 1 and desk.plan.what != TRAIN:
            bound = host_bound_arms(desk.device, workload)
        for name, found in workload.probes().items():
            desk.store.add_probe(desk.device.id, desk.session, name, found)
        if singles:
            desk.stage("latency")
            for name, seconds in single_steps(desk.device, {arm.name: arm.step for arm in arms}, desk.should_stop).items():
                desk.store.add_latencies(desk.device.id, desk.session, name, seconds)
    _keep_facts(desk, workload, bound)
    return {**described, "rounds": asdict(result)}


def run_paper(desk: Desk) -> dict[str, Any]:
    """The paper's protocol, once: the baseline first, 100 warm-up forwards, the wall clock around 30, batch 128."""
    precision = "fp32" if desk.device.kind == "cpu" else "fp16"
    plan = replace(desk.plan, precision=precision, batch_size=PAPER_BATCH, graphs=False, inputs="random")
    if desk.device.kind == "cuda":
        import torch

        torch.backends.cudnn.benchmark = True
    desk.stage("the paper's protocol")
    workload = prepare(plan, desk.device, desk.resolved)
    _keep_facts(desk, workload)
    arms = [TimedArm(name, workload.upstream_step(name, PAPER_BATCH), PAPER_BATCH) for name in workload.names]
    rates = replay_paper_protocol(desk.device, arms, arms[0].name) if workload.baseline in workload.names else {}
    return {"images_per_second": rates, "precision": precision}


def run_sweep(desk: Desk) -> dict[str, Any]:
    """Images/s at every batch size."""
    desk.stage("batch sweep")
    workload = prepare(desk.plan, desk.device, desk.resolved)
    _keep_facts(desk, workload)
    watch = Watch(desk.store.add_block, desk.progress, desk.should_stop)
    return measure_sweep(desk.device, workload, desk.protocol, watch, desk.session)


def run_energy(desk: Desk) -> dict[str, Any]:
    """Joules per image of every arm, each alone and without a break: 30 seconds, three times."""
    desk.stage("energy")
    workload = prepare(desk.plan, desk.device, desk.resolved)
    _keep_facts(desk, workload)
    watch = Watch(lambda _: None, desk.progress, desk.should_stop)
    found = {}
    for name in workload.names:
        if desk.should_stop():
            break
        arm = TimedArm(name, workload.step(name, workload.batch_size), workload.batch_size)
        telemetry = desk.device.telemetry()
        try:
            warm_up(desk.device, [arm], desk.protocol, watch, telemetry)
        finally:
            telemetry.close()
        energy = joules_per_image(measure_energy(desk.device, arm))
        found[name] = {"joules": None if energy.estimate is None else asdict(energy.estimate), "reason": energy.reason}
    return {"energy": found}


def run_accuracy(desk: Desk) -> dict[str, Any]:
    """Each image of the share once through all arms with weights; the first share then answers the probe images, too."""
    from rmeeto_bench.bench.session.accuracy_pass import Pass, one_pass
    from rmeeto_bench.bench.session.workload import ModelWorkload

    desk.stage("accuracy: building")
    workload = prepare(desk.plan, desk.device, desk.resolved, desk.job.workers)
    _keep_facts(desk, workload)
    if not isinstance(workload, ModelWorkload):
        return {}
    passes = workload.evaluations()
    if not passes:
        return {}
    if desk.plan.accuracy_only:
        desk.note(workload.account())
    elif desk.job.shard[0] == 0:
        for name, found in workload.probes().items():
            desk.store.add_probe(desk.owner, desk.session, name, found)
    desk.stage("accuracy")

    def report(progress: PassProgress) -> None:
        desk.emit("evaluating", progress=asdict(progress))

    share = Pass(workload.setting, desk.store, report, desk.note, desk.should_stop, desk.job.shard, desk.owner)
    for data, arms in passes:
        one_pass(arms, data, share)
    _keep_facts(desk, workload)
    return {"views": workload.views}


def check_images(desk: Desk) -> dict[str, Any]:
    """Whether the images that were evaluated are still the same; raises `DataError` if not."""
    from rmeeto_bench.bench.session.workload import load_data
    from rmeeto_bench.bench.store.predictions import Predictions

    for resolved in desk.resolved:
        data = load_data(desk.plan, resolved)
        if data is not None:
            desk.stage("checking the images")
            Predictions(desk.store, desk.owner).check_same(data)
    return {}


WORK: dict[str, Callable[[Desk], dict[str, Any]]] = {
    "timing": run_timing,
    "paper": run_paper,
    "sweep": run_sweep,
    "energy": run_energy,
    "accuracy": run_accuracy,
    "images": check_images,
    "equivalence": serve_blocks,
    "noise": run_noise,
    "trace": run_trace,
    "fed": run_fed,
}


def perform(job: Job, emit: Callable[..., None], should_stop: Callable[[], bool], orders: Callable[[], str]) -> None:
    """Do a job in this process. `orders` waits for the parent's next word (only the equivalence test gives any).

    Raises `RmeetoError`; what was measured until then is in the store.
    """
    plan = BenchPlan.from_dict(job.plan)
    gpu = job.device.removeprefix("cuda:") if job.device.startswith("cuda:") else None
    with Store.open(Path(job.folder)) as store:
        session = store.begin_session(
            job.owner or job.device, job.model, job.kind, environment(gpu, torch=not job.device.startswith("sim:"))
        )
        device = own_device(job.device, plan, session)
        resolved = tuple(Resolved.from_dict(model) for model in job.resolved)
        desk = Desk(job, plan, resolved, device, store, session, emit, should_stop, orders)
        result = WORK[job.kind](desk)
        status = "stopped" if should_stop() else "done" if job.shard[1] == 1 else "share"
        store.end_session(desk.owner, session, status, result)
