"""Several processes, one device each, share a pass: every n-th batch each, no image twice, none padded."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch

from rmeeto_bench import children
from rmeeto_bench.bench.evaluate.arm_accuracies import Described, described
from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.plan.resolve import Resolved
from rmeeto_bench.bench.session.accuracy_pass import Pass, PassProgress, one_pass
from rmeeto_bench.bench.session.built_arm import BuiltArm, build, setting_for
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.cpus import cores
from rmeeto_bench.data.image_set import ImageSet
from rmeeto_bench.errors import MeasurementError, RmeetoError
from rmeeto_bench.measure.devices.device import Device

POLL = 0.2  # seconds


@dataclass(frozen=True)
class SharedPass:
    """What every process is given; the store in `folder` exists already."""

    plan: BenchPlan
    resolved: tuple[Resolved, ...]
    data: ImageSet
    folder: Path
    filed_under: str


def joined(parts: list[PassProgress]) -> PassProgress:
    """The progress of all shards as one."""
    names = parts[0].correct
    return PassProgress(
        done=sum(part.done for part in parts),
        total=sum(part.total for part in parts),
        earlier=sum(part.earlier for part in parts),
        read=sum(part.read for part in parts),
        correct={name: sum(part.correct.get(name, 0) for part in parts) for name in names},
        seconds=max(part.seconds for part in parts),
    )


def build_arms(plan: BenchPlan, resolved: Sequence[Resolved], device: Device) -> list[BuiltArm]:
    """All ratios of these models on a device."""
    setting = setting_for(plan, device)
    return [build(cell, plan, setting, model) for model in resolved for cell in model.cells]


@contextmanager
def _variables() -> Iterator[None]:
    """This process's variables as a child shall have them; `multiprocessing` takes them from here."""
    before = dict(os.environ)
    os.environ.update(children.variables())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _work(shared: SharedPass, device: Device, shard: tuple[int, int], channel: Any, stop: Any) -> None:
    """One process: build the arms on its device and do its share. Everything it has to say goes through the channel."""
    parent = parent_process()
    assert parent is not None
    assert parent.pid is not None
    children.bind(parent.pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        if device.kind == "cpu":
            torch.set_num_threads(max(1, cores() // shard[1]))
        else:
            torch.cuda.set_device(device.torch_device)
        setting = setting_for(shared.plan, device)
        arms = build_arms(shared.plan, shared.resolved, device)
        for account in dict.fromkeys(arm.account() for arm in arms):
            channel.put(("note", shard[0], account))
        with Store.open(shared.folder) as store:
            job = Pass(
                setting,
                store,
                on_progress=lambda progress: channel.put(("progress", shard[0], progress)),
                on_note=lambda text: channel.put(("note", shard[0], text)),
                should_stop=stop.is_set,
                shard=shard,
                filed_under=shared.filed_under,
            )
            one_pass(arms, shared.data, job)
        channel.put(("end", shard[0], [described(arm) for arm in arms]))
    except RmeetoError as error:
        channel.put(("error", shard[0], error))
    except Exception as error:  # out of memory, a driver that failed: the parent says it in one line
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        channel.put(("error", shard[0], MeasurementError(f"{device.name}: {reason}; start again with --resume")))


def share(
    shared: SharedPass,
    devices: list[Device],
    on_progress: Callable[[PassProgress], None],
    on_note: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> list[Described]:
    """Run the pass on all devices; predictions are in the store when this returns. Returns what the arms were.

    An error of one process ends all, is raised here, and what was stored stays. Raises `MeasurementError` for a process
    that died.
    """
    context = get_context("spawn")  # CUDA does not survive a fork
    channel, stop = context.Queue(), context.Event()
    processes = [
        context.Process(target=_work, args=(shared, device, (i, len(devices)), channel, stop), daemon=False)
        for i, device in enumerate(devices)
    ]
    with _variables():
        for process in processes:
            process.start()
    progress: dict[int, PassProgress] = {}
    running, failure = set(range(len(devices))), None
    notes: set[str] = set()
    arms: list[Described] = []
    try:
        while running:
            try:
                kind, shard, value = channel.get(timeout=POLL)
            except queue.Empty:
                for i in sorted(running):
                    if not processes[i].is_alive() and channel.empty():
                        failure = failure or MeasurementError(
                            f"the process for {devices[i].name} ended with code {processes[i].exitcode}; "
                            "what it evaluated is kept, start again with --resume"
                        )
                        running.discard(i)
                        stop.set()
            else:
                if kind == "progress":
                    progress[shard] = value
                    on_progress(joined(list(progress.values())))
                elif kind == "note":
                    if value not in notes:
                        notes.add(value)
                        on_note(value)
                elif kind == "error":
                    running.discard(shard)
                    failure = failure or value
                    stop.set()
                else:
                    running.discard(shard)
                    arms = value
            if should_stop():
                stop.set()
    finally:
        stop.set()
        for process in processes:
            process.join()
    if failure is not None:
        raise failure
    return arms
