"""`eval`: accuracy alone. Models of equal preprocessing share one pass, devices share the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from rmeeto_bench.bench.environment import environment
from rmeeto_bench.bench.evaluate.arm_accuracies import Described, compare, described
from rmeeto_bench.bench.evaluate.sharing import SharedPass, build_arms, share
from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.plan.resolve import Resolved, resolve
from rmeeto_bench.bench.run.folder_lock import folder_lock
from rmeeto_bench.bench.session.accuracy_pass import Pass, PassProgress, one_pass
from rmeeto_bench.bench.session.built_arm import setting_for
from rmeeto_bench.bench.session.label_check import suspicion
from rmeeto_bench.bench.session.workload import load_data
from rmeeto_bench.bench.store.predictions import Predictions
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.store.untrusted import check_stored
from rmeeto_bench.cpus import within_quota
from rmeeto_bench.data.image_set import ImageSet
from rmeeto_bench.errors import CheckpointError, DataError, UsageError
from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.models.sizes import config
from rmeeto_bench.records.accuracy import AccuracyRecord, ArmAccuracy, ClassChange, DataProblem, DataSummary
from rmeeto_bench.version import __version__

SHARED = "shared"  # predictions of a pass are the pass's, whichever device made them


class Listener(Protocol):
    """Who hears of the progress of an evaluation."""

    def note(self, text: str) -> None:
        """A decision or a warning the user should see."""
        ...

    def stage(self, device: str, model: str, stage: str) -> None:
        """The work moved on to another stage."""
        ...

    def passing(self, progress: PassProgress) -> None:
        """A batch went through all arms."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate and how: the plan's models, ratios, checkpoints, data and settings. `workers`: processes that decode."""

    plan: BenchPlan
    workers: int | None = None
    resume: bool = False
    argv: tuple[str, ...] = ()


def require_weights(plan: BenchPlan) -> list[Resolved]:
    """The plan's models, resolved. Raises `CheckpointError` where an arm would have random weights, or its file cannot be
    had; nothing is built."""
    found = [resolve(plan, model) for model in dict.fromkeys(plan.models)]
    for name, weights in (item for model in found for item in model.weights.items()):
        if weights.path is None:
            raise CheckpointError(f"{name} has no weights to evaluate; give --checkpoints a folder, a file or zoo")
    return found


def groups(resolved: Sequence[Resolved]) -> list[tuple[Resolved, ...]]:
    """The models, those together that take the same images and classes."""
    found: dict[tuple[Any, ...], list[Resolved]] = {}
    for model in resolved:
        shape = config(model.model).input_shape
        found.setdefault((shape, model.num_classes, model.class_names), []).append(model)
    return [tuple(models) for models in found.values()]


def data_for(evaluation: Evaluation, resolved: Resolved) -> ImageSet:
    """The images for a model. Raises `DataError`."""
    model, shape = resolved.model, config(resolved.model).input_shape
    data = load_data(evaluation.plan, resolved, evaluation.workers)
    if data is None:
        raise DataError(f"no images for {model} ship with rmeeto-bench; give --data")
    if data.shape != shape:
        raise UsageError(f"{data.name} has images of {data.shape}, {model} takes {shape}; choose another --data or --model")
    return data


def evaluate_plan(
    evaluation: Evaluation,
    folder: Path,
    devices: list[Device],
    listener: Listener,
    should_stop: Callable[[], bool] = lambda: False,
) -> AccuracyRecord:
    """Evaluate all arms; predictions go to the store in `folder` batch by batch, and a resumed evaluation continues there.

    With several devices, each runs a process with its share of the batches. Raises what building arms and reading data
    raise.
    """
    rows: list[ArmAccuracy] = []
    changes: list[ClassChange] = []
    hints: list[str] = []
    data_of: dict[str, DataSummary] = {}
    complete = True
    work = [(models, data_for(evaluation, models[0])) for models in groups(require_weights(evaluation.plan))]
    if evaluation.resume:
        check_stored(folder)
    with folder_lock(folder, listener.note, should_stop), Store.create(folder, resume=evaluation.resume) as store:
        if store.note:
            listener.note(store.note)
        for models, data in work:
            names = ",".join(model.model for model in models)
            listener.stage(", ".join(device.name for device in devices), names, f"on {data.name}")
            for note in (note for model in models for note in model.notes):
                listener.note(note)
            arms = _pass(evaluation.plan, models, data, store, devices, Watching(listener, should_stop))
            kept = Predictions(store, SHARED)
            results = kept.results(data.fingerprint, [arm.cell.name for arm in arms])
            found, changed = compare(arms, results)
            rows, changes = rows + found, changes + changed
            hint = suspicion(results, arms[0].cell.name, data.num_classes)
            hints += [] if hint is None else [hint]
            problems = kept.problems(data.fingerprint)
            listed = tuple(DataProblem(problem.path, problem.reason, problem.skipped) for problem in problems)
            data_of[names] = DataSummary(data.name, data.fingerprint, len(data), len(results.labels), data.num_classes, listed)
            complete &= len(results.labels) + kept.unreadable(data.fingerprint) == len(data)
            if should_stop():
                break
    return AccuracyRecord(
        created_utc=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        tool_version=__version__,
        argv=evaluation.argv,
        plan=evaluation.plan.as_dict(),
        environment=environment(),
        devices=tuple(device.name for device in devices),
        status="complete" if complete and len(data_of) == len(work) else "interrupted",
        arms=tuple(rows),
        data=data_of,
        hints=tuple(hints),
        classes=tuple(changes),
    )


@dataclass(frozen=True)
class Watching:
    """Who hears of a pass and who may end it."""

    listener: Listener
    should_stop: Callable[[], bool]


def _pass(
    plan: BenchPlan, models: tuple[Resolved, ...], data: ImageSet, store: Store, devices: list[Device], watching: Watching
) -> list[Described]:
    """One pass, on one device in this process, or on several in a process each. Returns what the arms were."""
    listener = watching.listener
    if len(devices) > 1:
        shared = SharedPass(plan, models, data, store.path.parent, SHARED)
        return share(shared, devices, listener.passing, listener.note, watching.should_stop)
    if devices[0].kind == "cpu":
        torch.set_num_threads(within_quota(torch.get_num_threads()))  # torch does not know a container's quota
    arms = build_arms(plan, models, devices[0])
    for account in dict.fromkeys(arm.account() for arm in arms):
        listener.note(account)
    setting = setting_for(plan, devices[0])
    job = Pass(setting, store, listener.passing, listener.note, watching.should_stop, filed_under=SHARED)
    one_pass(arms, data, job)
    return [described(arm) for arm in arms]
