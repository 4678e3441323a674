"""Two stored runs side by side: FASTER, SLOWER, SAME or INCONCLUSIVE for every arm they share. No torch.

Runs of different days share no process and no round: their sessions are compared by Welch's test on logarithms, with Holm's
correction over everything that is judged. A run with fewer than three sessions does not know how processes differ, and there is
no verdict on its speeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.special import ndtri

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.store.untrusted import open_if_kept
from rmeeto_bench.compare.readings import USABLE
from rmeeto_bench.compare.student import Student, welch
from rmeeto_bench.compare.top1 import OTHER_IMAGES, PairedAnswers, paired_top1
from rmeeto_bench.errors import DataError, MeasurementError
from rmeeto_bench.measure.statistics import ENOUGH_SESSIONS, holm, log_error
from rmeeto_bench.records.cell import lasting_device_id
from rmeeto_bench.records.comparison import (
    BETTER,
    FASTER,
    INCONCLUSIVE,
    NO_LOSS,
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
from rmeeto_bench.records.run import MERGED_FROM, Arm, DeviceRecord, Estimate, RunRecord

LEVEL = 0.05  # how often anything may be called faster or slower, better or worse, where nothing is
Z = float(ndtri(1 - LEVEL / 2))
TOO_FEW = f"no verdict on fewer than {ENOUGH_SESSIONS} sessions a side; run without --quick"
STACK = ("python", "cuda", "packages", "threads", "system")


@dataclass(frozen=True)
class StoredRun:
    """A run and where it lies."""

    folder: Path  # with the run's files
    record: RunRecord  # what was measured

    @property
    def name(self) -> str:
        """For tables."""
        return self.record.run_id


@dataclass(frozen=True)
class Tolerances:
    """Differences below these are SAME."""

    speed: float = 0.01  # relative
    top1: float = 0.5  # percentage points


@dataclass(frozen=True)
class Compared:
    """A change before it has its word."""

    change: Change  # what changed, and by how much
    test: Student | PairedAnswers | None  # what says how sure the change is; None: the sessions are too few

    def fell(self) -> float:
        """Two-sided p-value of the quantity where it fell, 1 where it did not."""
        return float(self.test.p_different()) if self.test is not None and self.test.value < 0 else 1.0


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


def _origins(run: RunRecord, device: DeviceRecord) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Environment and plan of the runs that measured a device: of a merged run, those that it was merged from."""
    parts = run.plan.get(MERGED_FROM)
    if not isinstance(parts, list):
        return [(run.environment, run.plan)]
    keys = ("arms", "environment", "plan")
    whole = [part for part in parts if isinstance(part, dict) and all(isinstance(part.get(key), dict) for key in keys)]
    return [(part["environment"], part["plan"]) for part in whole if device.id in part["arms"]]


def differences(base: RunRecord, head: RunRecord) -> Iterator[str]:
    """In words, what else differs between the runs than the program."""
    stacks: dict[str, None] = {}
    for one, other in device_pairs(base, head):
        origins = [(a, b) for a in _origins(base, one) for b in _origins(head, other)]
        cards = {(lasting_device_id(one, a[0]), lasting_device_id(other, b[0])) for a, b in origins}
        two = sorted((first, second) for first, second in cards if first != second)
        if one.name != other.name:
            yield f"the machines differ: {one.name} against {other.name}; speeds compare machines, not programs"
        elif two:
            what = "machines with a processor" if one.kind == "cpu" else "cards"
            yield f"two {what} of one kind: {two[0][0]} against {two[0][1]}; they may differ by some percent"
        elif one.details != other.details:
            yield f"{one.name} was set up differently ({', '.join(_unlike(one.details, other.details))})"
        stacks |= {text: None for a, b in origins for text in _stack_differences(a, b)}
    yield from stacks


def _stack_differences(
    base: tuple[dict[str, Any], dict[str, Any]], head: tuple[dict[str, Any], dict[str, Any]]
) -> Iterator[str]:
    """What differs between the environments and plans of two measured runs."""
    for name in STACK:
        first, second = base[0].get(name), head[0].get(name)
        if first != second and isinstance(first, dict) and isinstance(second, dict):
            unlike = (f"{key} {first.get(key)} against {second.get(key)}" for key in _unlike(first, second))
            yield f"the stacks differ: {', '.join(unlike)}"
        elif first != second:
            yield f"the stacks differ: {name} {first} against {second}"
    if base[1].get("preset") != head[1].get("preset"):
        yield f"the presets differ: {base[1].get('preset')} against {head[1].get('preset')}"


def arm_differences(base: RunRecord, head: RunRecord) -> Iterator[str]:
    """In words, what the arms of both runs were measured with that is not the same, each thing once."""
    found: dict[str, list[str]] = {}
    for one, other in device_pairs(base, head):
        theirs = {arm.arm: arm for arm in head.arms if arm.device == other.id}
        for arm in (arm for arm in base.arms if arm.device == one.id and arm.arm in theirs):
            match = theirs[arm.arm]
            for name in (
                "precision",
                "batch_size",
                "backend",
                "weights",
                "checkpoint_sha256",
                "averaged",
                "reduction",
                "baseline",
            ):
                first, second = getattr(arm, name), getattr(match, name)
                if first != second:
                    words = f"{name.replace('_', ' ')} {str(first)[:16]} against {str(second)[:16]}"
                    found.setdefault(words, []).append(arm.arm)
    for words, names in found.items():
        yield f"the arms differ: {words} ({', '.join(names[:3])}{' and more' if len(names) > 3 else ''})"


def _unlike(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def _student(arm: Arm, metric: str) -> Student | None:
    """The logarithm of a quantity of a run as its own interval tells it; None where its sessions are too few for a verdict."""
    estimate = arm.images_per_second if metric == RATE else arm.speedup
    error = None if estimate is None else log_error(estimate, arm.sessions)
    if estimate is None or error is None:
        return None
    return Student(math.log(estimate.value), error, arm.sessions - 1)


def _speed(key: tuple[str, str, str], base: Arm, head: Arm, limits: Tolerances) -> Compared | None:
    field = "images_per_second" if key[2] == RATE else "speedup"
    first, second = getattr(base, field), getattr(head, field)
    if first is None or second is None:
        return None
    sides = _student(base, key[2]), _student(head, key[2])
    if sides[0] is None or sides[1] is None:
        change = Estimate(second.value / first.value - 1)
        return Compared(
            Change(*key, first.value, second.value, change, limits.speed, INCONCLUSIVE, TOO_FEW, base.baseline), None
        )
    test = welch(sides[0], sides[1])
    low, high = test.bounds(LEVEL / 2)
    change = Estimate(math.expm1(test.value), math.expm1(low), math.expm1(high))
    return Compared(Change(*key, first.value, second.value, change, limits.speed, INCONCLUSIVE, over=base.baseline), test)


def _top1(device: str, base: tuple[Store | None, Arm], head: tuple[Store | None, Arm], limits: Tolerances) -> Compared | None:
    first, second = base[1].top1, head[1].top1
    if first is None or second is None:
        return None
    answers, detail = paired_top1(base, head)
    test: Student | PairedAnswers
    if answers is not None:
        test, delta = answers, answers.estimate(1 - LEVEL)
    else:
        halves = [(e.high - e.low) / 2 for e in (first, second) if e.low is not None and e.high is not None]
        value, half = second.value - first.value, math.hypot(*halves)
        test, delta = Student(value, half / Z, math.inf), Estimate(value, value - half, value + half)
    outcome = REFUSED if detail == OTHER_IMAGES else INCONCLUSIVE
    change = Change(device, base[1].arm, TOP1, first.value, second.value, delta, limits.top1, outcome, detail)
    return Compared(change, test)


def _judged(found: Sequence[Compared]) -> list[Change]:
    """Every change with its word. Holm's correction is over all that have a test, whatever the word.

    A speed-up falls when its arm gets slower, and also when r = 0 gets faster: it is SLOWER only if the rate of its arm fell.
    """
    tested = [one for one in found if one.test is not None and one.change.outcome != REFUSED]
    rates = {(one.change.device, one.change.arm): one for one in tested if one.change.metric == RATE}
    p = []
    for one in tested:
        assert one.test is not None
        rate = rates.get((one.change.device, one.change.arm))
        by_rate = rate.fell() if rate is not None and one.change.metric == SPEEDUP and one.test.value < 0 else 0.0
        p.append(max(float(one.test.p_different()), by_rate))
    words = {id(one): outcome_of(one.change, adjusted) for one, adjusted in zip(tested, holm(p), strict=True)}
    changes = [replace(one.change, outcome=words.get(id(one), one.change.outcome)) for one in found]
    known = {(change.device, change.arm): change.outcome for change in changes if change.metric == RATE}
    return [_explained(change, known, len(tested)) for change in changes]


def _explained(change: Change, rates: Mapping[tuple[str, str], str], tested: int) -> Change:
    """Why a change whose interval excludes zero has no verdict: `rates` has the words of the rates."""
    low, high = change.change.low, change.change.high
    if change.outcome != INCONCLUSIVE or low is None or high is None or low <= 0 <= high:
        return change
    if change.metric == SPEEDUP and high < 0:
        baseline = rates.get((change.device, change.baseline))
        if baseline == FASTER and rates.get((change.device, change.arm)) in (SAME, FASTER):
            first = change.over or "r = 0"
            why = f"the speed-up of {change.arm} fell because {first} got faster; {change.arm} itself is not slower"
            return replace(change, outcome=NO_LOSS, detail=why)
        return replace(change, detail=f"the speed-up of {change.arm} fell, but its rate is not shown to have fallen")
    why = f"its own interval excludes zero, but it is one of {tested} quantities, and chance explains one such interval"
    return replace(change, detail="; ".join(filter(None, (change.detail, why))))


def outcome_of(change: Change, adjusted: float) -> str:
    """SAME if the whole interval is within the margin, else the side on which the change lies if chance does not explain it."""
    low, high = change.change.low, change.change.high
    if low is not None and high is not None and -change.margin <= low and high <= change.margin:
        return SAME
    if adjusted > LEVEL:
        return INCONCLUSIVE
    words = (BETTER, WORSE) if change.metric == TOP1 else (FASTER, SLOWER)
    return words[0] if change.change.value > 0 else words[1]


def _unusable(base: Arm, head: Arm) -> str:
    said = [f"{side} {arm.verdict}" for side, arm in (("base", base), ("head", head)) if arm.verdict not in USABLE]
    return ", ".join(said)


def _compared(base: StoredRun, head: StoredRun, limits: Tolerances) -> Iterator[Compared]:
    with open_if_kept(base.folder) as first, open_if_kept(head.folder) as second:
        yield from _compared_of(base, head, limits, (first, second))


def _compared_of(
    base: StoredRun, head: StoredRun, limits: Tolerances, stores: tuple[Store | None, Store | None]
) -> Iterator[Compared]:
    for one, other in device_pairs(base.record, head.record):
        label, theirs = base.record.label(one.id), {arm.arm: arm for arm in head.record.arms if arm.device == other.id}
        for arm in (arm for arm in base.record.arms if arm.device == one.id and arm.arm in theirs):
            match, refused = theirs[arm.arm], _unusable(arm, theirs[arm.arm])
            found = [_speed((label, arm.arm, RATE), arm, match, limits)]
            if not arm.is_baseline and arm.baseline == match.baseline:
                found.append(_speed((label, arm.arm, SPEEDUP), arm, match, limits))
            found.append(_top1(label, (stores[0], arm), (stores[1], match), limits))
            for item in found:
                if item is not None:
                    yield replace(item, change=replace(item.change, outcome=REFUSED, detail=refused)) if refused else item


def _overall(changes: list[Change]) -> str:
    """The worst of what may be judged: SLOWER, WORSE (an accuracy fell), INCONCLUSIVE, FASTER, BETTER or SAME."""
    outcomes = {change.outcome for change in changes if change.outcome != REFUSED}
    if not outcomes:
        return REFUSED
    return next((word for word in (SLOWER, WORSE, INCONCLUSIVE, FASTER, BETTER) if word in outcomes), SAME)


def compare(base: StoredRun, head: StoredRun, limits: Tolerances, *, explain: bool = False) -> Comparison:
    """Every arm that both runs have. `explain`: show simulated and invalid arms too, marked REFUSED and not judged.

    Raises `MeasurementError` for simulated or invalid arms without `explain`, `DataError` if the runs share no arm.
    """
    kinds = [" and ".join(sorted({arm.what for arm in run.record.arms})) for run in (base, head)]
    if kinds[0] != kinds[1]:
        raise DataError(f"{base.name} timed {kinds[0]}, {head.name} {kinds[1]}; compare runs of one kind of step")
    changes = _judged(list(_compared(base, head, limits)))
    if not changes:
        raise DataError(f"{base.name} and {head.name} share no measured arm; compare runs of one model, at the same r")
    refused = [change for change in changes if change.outcome == REFUSED and change.detail != OTHER_IMAGES]
    if refused and not explain:
        raise MeasurementError(
            f"{refused[0].arm} cannot be compared ({refused[0].detail}); measure again, or look at the numbers with --explain"
        )
    notes = [*differences(base.record, head.record), *arm_differences(base.record, head.record)]
    if any(change.detail == OTHER_IMAGES for change in changes):
        notes.append("the images differ, or files of the same names have other content: top-1 is not judged")
    notes += [f"{arm} is not judged: {why}" for arm, why in dict.fromkeys((change.arm, change.detail) for change in refused)]
    notes += list(dict.fromkeys(c.detail for c in changes if c not in refused and c.metric != TOP1 and c.detail))
    quick = [run.name for run in (base, head) if any(arm.verdict == "EXPLORATORY" for arm in run.record.arms)]
    if quick:
        notes.append(f"a quick look, not for conclusions: {', '.join(quick)}")
    return Comparison("compare", base.name, head.name, _overall(changes), tuple(changes), tuple(notes))
