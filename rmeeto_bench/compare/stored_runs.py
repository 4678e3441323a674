"""Two stored runs side by side: FASTER, SLOWER, SAME or INCONCLUSIVE for every arm they share. No torch.

Runs of different days share no process and no round, so their intervals add in quadrature. A run with fewer than three
sessions does not know how processes differ: its interval is widened by what calibration found, or by 0.4 % a process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.store.untrusted import open_if_kept
from rmeeto_bench.compare.top1 import paired_top1
from rmeeto_bench.errors import DataError, MeasurementError
from rmeeto_bench.measure.statistics import ENOUGH_SESSIONS
from rmeeto_bench.records.comparison import (
    BETTER,
    FASTER,
    INCONCLUSIVE,
    RATE,
    REFUSED,
    SAME,
    SLOWER,
    SPEEDUP,
    TOP1,
    WORSE,
    Change,
    Comparison,
)
from rmeeto_bench.records.run import Arm, DeviceRecord, Estimate, RunRecord

USABLE = ("VALID", "EXPLORATORY")
PROCESS_SD = 0.004  # an assumption where nothing was calibrated
Z = float(stats.norm.ppf(0.975))
STACK = ("python", "cuda", "packages", "threads", "system")


@dataclass(frozen=True)
class StoredRun:
    """A run and where it lies."""

    folder: Path
    record: RunRecord

    @property
    def name(self) -> str:
        """For tables."""
        return self.record.run_id


@dataclass(frozen=True)
class Limits:
    """Differences below these are SAME: relative for speed, percentage points for top-1. `process_sd`: between processes of
    one program, relative, for runs too short to know it themselves."""

    speed: float = 0.01
    top1: float = 0.5
    process_sd: float = PROCESS_SD


def device_pairs(base: RunRecord, head: RunRecord) -> list[tuple[DeviceRecord, DeviceRecord]]:
    """Devices to compare: the same by id, else the only ones of a kind, else the only ones at all."""
    pairs, left = [], list(head.devices)
    for device in base.devices:
        found = [d for d in left if d.id == device.id] or [d for d in left if d.name == device.name]
        if not found and len(base.devices) == len(head.devices) == 1:
            found = left
        if found:
            pairs.append((device, found[0]))
            left.remove(found[0])
    return pairs


def differences(base: RunRecord, head: RunRecord) -> Iterator[str]:
    """In words, what else differs between the runs than the program."""
    for one, other in device_pairs(base, head):
        if one.name != other.name:
            yield f"the machines differ: {one.name} against {other.name}; speeds compare machines, not programs"
        elif one.id != other.id:
            yield f"two cards of one kind: {one.id} against {other.id}; cards differ by some percent"
        elif one.details != other.details:
            yield f"{one.name} was set up differently ({', '.join(_unlike(one.details, other.details))})"
    for name in STACK:
        first, second = base.environment.get(name), head.environment.get(name)
        if first != second and isinstance(first, dict) and isinstance(second, dict):
            unlike = (f"{key} {first.get(key)} against {second.get(key)}" for key in _unlike(first, second))
            yield f"the stacks differ: {', '.join(unlike)}"
        elif first != second:
            yield f"the stacks differ: {name} {first} against {second}"
    if base.plan.get("preset") != head.plan.get("preset"):
        yield f"the presets differ: {base.plan.get('preset')} against {head.plan.get('preset')}"


def arm_differences(base: RunRecord, head: RunRecord) -> Iterator[str]:
    """In words, what the arms of both runs were measured with that is not the same, each thing once."""
    found: dict[str, list[str]] = {}
    for one, other in device_pairs(base, head):
        theirs = {arm.arm: arm for arm in head.arms if arm.device == other.id}
        for arm in (arm for arm in base.arms if arm.device == one.id and arm.arm in theirs):
            match = theirs[arm.arm]
            for name in ("precision", "batch_size", "backend", "weights", "checkpoint_sha256", "averaged", "reduction"):
                first, second = getattr(arm, name), getattr(match, name)
                if first != second:
                    words = f"{name.replace('_', ' ')} {str(first)[:16]} against {str(second)[:16]}"
                    found.setdefault(words, []).append(arm.arm)
    for words, names in found.items():
        yield f"the arms differ: {words} ({', '.join(names[:3])}{' and more' if len(names) > 3 else ''})"


def _unlike(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def _log_half(estimate: Estimate, sessions: int, limits: Limits, *, ratio: bool) -> float | None:
    """Half the 95 % interval of the logarithm, with the spread of processes where the run cannot know it."""
    if estimate.low is None or estimate.high is None:
        return None
    half = math.log(estimate.high / estimate.low) / 2
    if sessions >= ENOUGH_SESSIONS:
        return half
    process = Z * limits.process_sd * (math.sqrt(2) if ratio else 1.0) / math.sqrt(max(1, sessions))
    return math.hypot(half, process)


def _verdict(change: Estimate, margin: float, words: tuple[str, str]) -> str:
    """SAME if the whole interval is within the margin, else the side on which it excludes zero."""
    assert change.low is not None
    assert change.high is not None
    if -margin <= change.low and change.high <= margin:
        return SAME
    return words[0] if change.low > 0 else words[1] if change.high < 0 else INCONCLUSIVE


def _speed(key: tuple[str, str, str], base: Arm, head: Arm, limits: Limits) -> Change | None:
    field = "images_per_second" if key[2] == RATE else "speedup"
    first, second = getattr(base, field), getattr(head, field)
    if first is None or second is None:
        return None
    ratio = key[2] == SPEEDUP
    halves = [_log_half(e, arm.sessions, limits, ratio=ratio) for e, arm in ((first, base), (second, head))]
    value = math.log(second.value / first.value)
    if halves[0] is None or halves[1] is None:
        return Change(*key, first.value, second.value, Estimate(math.expm1(value)), limits.speed, INCONCLUSIVE, "no interval")
    half = math.hypot(halves[0], halves[1])
    change = Estimate(math.expm1(value), math.expm1(value - half), math.expm1(value + half))
    return Change(*key, first.value, second.value, change, limits.speed, _verdict(change, limits.speed, (FASTER, SLOWER)))


def _top1(device: str, base: tuple[Store | None, Arm], head: tuple[Store | None, Arm], limits: Limits) -> Change | None:
    first, second = base[1].top1, head[1].top1
    if first is None or second is None:
        return None
    delta, detail = paired_top1(base, head)
    if delta is None:
        halves = [(e.high - e.low) / 2 for e in (first, second) if e.low is not None and e.high is not None]
        value, half = second.value - first.value, math.hypot(*halves)
        delta = Estimate(value, value - half, value + half)
    outcome = _verdict(delta, limits.top1, (BETTER, WORSE))
    return Change(device, base[1].arm, TOP1, first.value, second.value, delta, limits.top1, outcome, detail)


def _unusable(base: Arm, head: Arm) -> str:
    said = [f"{side} {arm.verdict}" for side, arm in (("base", base), ("head", head)) if arm.verdict not in USABLE]
    return ", ".join(said)


def _changes(base: StoredRun, head: StoredRun, limits: Limits) -> Iterator[Change]:
    with open_if_kept(base.folder) as first, open_if_kept(head.folder) as second:
        yield from _changes_of(base, head, limits, (first, second))


def _changes_of(
    base: StoredRun, head: StoredRun, limits: Limits, stores: tuple[Store | None, Store | None]
) -> Iterator[Change]:
    for one, other in device_pairs(base.record, head.record):
        theirs = {arm.arm: arm for arm in head.record.arms if arm.device == other.id}
        for arm in (arm for arm in base.record.arms if arm.device == one.id and arm.arm in theirs):
            match, refused = theirs[arm.arm], _unusable(arm, theirs[arm.arm])
            found = [_speed((one.name, arm.arm, RATE), arm, match, limits)]
            if arm.r:
                found.append(_speed((one.name, arm.arm, SPEEDUP), arm, match, limits))
            found.append(_top1(one.name, (stores[0], arm), (stores[1], match), limits))
            for change in found:
                if change is not None:
                    yield Change(**{**change.__dict__, "outcome": REFUSED, "detail": refused}) if refused else change


def _overall(changes: list[Change]) -> str:
    """The worst of what may be judged: SLOWER (an accuracy that fell counts too), INCONCLUSIVE, FASTER, SAME."""
    outcomes = {change.outcome for change in changes if change.outcome != REFUSED}
    if not outcomes:
        return REFUSED
    if outcomes & {SLOWER, WORSE}:
        return SLOWER
    if INCONCLUSIVE in outcomes:
        return INCONCLUSIVE
    return FASTER if FASTER in outcomes else SAME


def compare(base: StoredRun, head: StoredRun, limits: Limits, *, explain: bool = False) -> Comparison:
    """Every arm that both runs have. `explain`: show simulated and invalid arms too, marked REFUSED and not judged.

    Raises `MeasurementError` for simulated or invalid arms without `explain`, `DataError` if the runs share no arm.
    """
    changes = list(_changes(base, head, limits))
    if not changes:
        raise DataError(f"{base.name} and {head.name} share no measured arm; compare runs of one model, at the same r")
    refused = [change for change in changes if change.outcome == REFUSED]
    if refused and not explain:
        raise MeasurementError(
            f"{refused[0].arm} cannot be compared ({refused[0].detail}); measure again, or look at the numbers with --explain"
        )
    notes = [*differences(base.record, head.record), *arm_differences(base.record, head.record)]
    if any(change.detail.endswith("the images differ") for change in changes):
        notes.append("the images differ: top-1 of the two runs is of other images, or of the same names with other content")
    notes += [f"{arm} is not judged: {why}" for arm, why in dict.fromkeys((change.arm, change.detail) for change in refused)]
    quick = [run.name for run in (base, head) if any(arm.verdict == "EXPLORATORY" for arm in run.record.arms)]
    if quick:
        notes.append(f"a quick look, not for conclusions: {', '.join(quick)}")
    return Comparison("compare", base.name, head.name, _overall(changes), tuple(changes), tuple(notes))
