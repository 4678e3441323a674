"""The record of a run from its store: all devices, their rows, sweeps and data, at any moment of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rmeeto_bench.bench.plan.plan import BenchPlan, size_name
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.summary.accuracy import accuracy_of
from rmeeto_bench.bench.summary.arm_records import Place, arm_records, place
from rmeeto_bench.errors import RmeetoError
from rmeeto_bench.measure.statistics import complete_rounds, run_rate
from rmeeto_bench.measure.verdict import device_spread
from rmeeto_bench.records.run import Arm, RunRecord, SweepRow

KNEE = 0.98  # of the best rate


def knee(rates: Mapping[int, float]) -> int | None:
    """The smallest batch size with at least 98 % of the best rate; None without rates."""
    if not rates:
        return None
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= KNEE * best)


def assemble(
    record: RunRecord, plan: BenchPlan, store: Store, lost: Mapping[str, str], refused: Mapping[str, RmeetoError]
) -> RunRecord:
    """The record with everything the store holds so far. `lost`, `refused`: devices that ended early, and why."""
    arms: list[Arm] = []
    sweep: list[SweepRow] = []
    data: dict[str, Any] = {}
    for device in record.devices:
        failure = "SLOW_PATH" if device.id in refused else None
        for group, models in plan.groups.items():
            here = place(plan, device, group, store)
            if here.facts_from or failure:
                rows = arm_records(here, failure if not here.timing else None)
                arms += rows
                for model in models:
                    data[model] = _data(here, [row for row in rows if row.model == model]) | data.get(model, {})
            sweep += sweep_rows(here)
    spread = spread_arms(record, arms)
    arms = [replace(arm, labels=(*arm.labels, "DEVICE_SPREAD")) if (arm.device, arm.arm) in spread else arm for arm in arms]
    return replace(record, arms=tuple(arms), sweep=tuple(sweep), data=data, failures=tuple(lost.values()))


def _data(here: Place, rows: list[Arm]) -> dict[str, Any]:
    """What a model saw on a device, and where its accuracy or energy is doubtful. rows: those of the model."""
    store, device, group = here.store, here.device.id, here.group
    sessions, accuracy = store.sessions(device, group, "timing"), accuracy_of(store, device, group)
    result = sessions[-1].result if sessions else {}
    names = [row.arm for row in rows]
    known = {} if accuracy is None else accuracy.data(names)
    if sessions:
        facts = store.facts(device, sessions[-1].session)
        noise = result.get("noise", True) or any(facts[name].get("noise") for name in names if name in facts)
        known["inputs"] = result.get("inputs", "noise" if noise else "real images")
    energy = [s.result["energy"] for s in store.sessions(device, group, "energy") if s.result.get("energy")]
    doubts = [how["reason"] for how in energy[-1].values() if how["reason"]] if energy else []
    if doubts:
        known["energy_doubt"] = doubts[0]
    name = None if known.get("inputs") == "noise" and here.plan.together else result.get("data")
    return {"name": name, "images": max((arm.n_images for arm in rows), default=0)} | known


def spread_arms(record: RunRecord, arms: list[Arm]) -> set[tuple[str, str]]:
    """(device, arm) of cards of one name that differ by more than 2 % on that arm."""
    kinds: dict[tuple[str, str], dict[str, float]] = {}
    for arm in arms:
        if arm.images_per_second is not None:
            kinds.setdefault((record.device(arm.device).name, arm.arm), {})[arm.device] = arm.images_per_second.value
    return {(device, arm) for (_, arm), rates in kinds.items() if device_spread(rates) for device in rates}


def sweep_rows(here: Place) -> list[SweepRow]:
    """One row per arm and batch size of a finished sweep; sizes that did not fit say OOM."""
    store, device = here.store, here.device
    sessions = [s for s in store.sessions(device.id, here.group, "sweep") if s.status == "done"]
    if not sessions:
        return []
    last = sessions[-1]
    blocks = [block for block in store.blocks(device.id) if block.session == last.session]
    rows = []
    for arm, how in last.result["arms"].items():
        names = {size: size_name(arm, size) for size in how["fitting"]}
        times = complete_rounds(blocks, list(names.values()))
        rates = {size: run_rate([session[name] for session in times]) for size, name in names.items() if times}
        best = knee({size: rate.value for size, rate in rates.items()})
        for size in last.result["sizes"]:
            fits = "SIMULATED" if device.kind == "sim" else "VALID"
            code = fits if size in rates else "OOM"
            model, _, r = arm.rpartition("/r")
            rows.append(SweepRow(device.id, arm, model, int(r), size, rates.get(size), code, size == best))
    return rows
