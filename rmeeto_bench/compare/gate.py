"""The regression gate: fresh, interleaved processes of two programs on one device, and a judgement with three outcomes.

How processes are started is the business of `programs`, so that everything here can be tested without any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from rmeeto_bench.compare.gate_rule import (
    ALPHAS,
    TOTAL_ALPHA,
    Margins,
    Readings,
    Tested,
    collect,
    judge,
    overall,
    process_changes,
)
from rmeeto_bench.compare.readings import USABLE, readings_of, session_readings, unusable_pair
from rmeeto_bench.compare.top1 import PairedAnswers
from rmeeto_bench.errors import MeasurementError
from rmeeto_bench.records.comparison import FAIL, INCONCLUSIVE, MEMORY, RATE, TOP1, Change, Comparison
from rmeeto_bench.records.run import Arm, Estimate, RunRecord

PAIRS = 6
RETRIES = 2  # processes a side that may come out invalid and are measured again
SIDES = ("base", "head")


@dataclass(frozen=True)
class Rules:
    """How the gate judges."""

    margins: Margins = field(default_factory=Margins)  # changes that are still the same
    pairs: int = PAIRS  # processes a side at each of the two looks


@dataclass
class Measured:
    """What one side has shown so far."""

    name: str  # base or head
    records: list[RunRecord] = field(default_factory=list)  # of its processes
    invalid: list[str] = field(default_factory=list)  # why processes count for nothing
    stored: Sequence[Readings] | None = None  # sessions of a run from another day, in place of fresh processes

    def readings(self) -> list[Readings]:
        """The values of each process."""
        return [readings_of(record) for record in self.records] if self.stored is None else list(self.stored)


class Measure(Protocol):
    """Measures one process of each side."""

    def __call__(self, names: tuple[str, ...], number: int, *, accuracy: bool) -> Mapping[str, RunRecord]:
        """The record of each side's run. `names`: the sides in their order. `accuracy`: whether top-1 is judged by this pair;
        one is enough, as more processes bring no new images."""


@dataclass
class _Gate:
    """A gate on its way."""

    sides: dict[str, Measured]  # name -> what it has shown
    measure: Measure  # measures one process of a side
    changes_of: Callable[[RunRecord, RunRecord], Readings] | None  # for pairs that took turns
    changes: list[Readings] = field(default_factory=list)  # of each pair, logarithmic
    repeated: int = 0  # pairs that were measured again


def order(number: int) -> tuple[str, ...]:
    """base, head; head, base; base, head; ...: a drift of the machine is the same for both sides."""
    return SIDES if number % 2 == 0 else SIDES[::-1]


def from_store(name: str, folder: Path, record: RunRecord) -> Measured:
    """A side that was measured another day: one value per session. Raises `MeasurementError` as for a fresh one."""
    refuse_simulated(record)
    reason = invalid_reason(record)
    if reason:
        raise MeasurementError(f"{name}: {reason}")
    return Measured(name, [record], stored=session_readings(folder, record))


def refuse_simulated(record: RunRecord) -> None:
    """Raises `MeasurementError` for a run with a simulated device."""
    if any(device.kind == "sim" for device in record.devices) or any(arm.verdict == "SIMULATED" for arm in record.arms):
        raise MeasurementError("a simulated device cannot pass or fail a gate; choose a GPU, or --gpus none for the CPU")


def invalid_reason(record: RunRecord) -> str:
    """Why a run cannot be a replicate, or nothing. An arm that does not fit into memory is a finding, not a fault."""
    if record.status != "complete":
        return f"the run ended as {record.status}"
    bad = [arm for arm in record.arms if arm.verdict not in (*USABLE, "OOM")]
    return "; ".join(dict.fromkeys(f"{arm.arm} {arm.verdict}: {arm.verdict_detail}" for arm in bad))


def _measure_pairs(gate: _Gate, pairs: int) -> None:
    """As many pairs more. One with an invalid process is measured again, both sides: they belong together."""
    fresh = [name for name in SIDES if gate.sides[name].stored is None]
    if not fresh:
        return
    first = gate.sides[fresh[0]]
    wanted = len(first.records) + pairs
    attempt = len(first.records) + gate.repeated
    while len(first.records) < wanted:
        names = tuple(name for name in order(attempt) if name in fresh)
        records = gate.measure(names, attempt, accuracy=not first.records)
        attempt += 1
        for record in records.values():
            refuse_simulated(record)
        reasons = {name: invalid_reason(records[name]) for name in names}
        changes: Readings = {}
        if len(fresh) == len(SIDES) and not any(reasons.values()):
            pair = (records["base"], records["head"])
            readings = (readings_of(pair[0]), readings_of(pair[1]))
            changes = process_changes(*readings)
            if gate.changes_of is not None:
                memory = {key: value for key, value in changes.items() if key[2] == MEMORY}
                changes = {**memory, **gate.changes_of(*pair)}
            reasons = dict.fromkeys(names, unusable_pair(changes, *readings))
        gate.repeated += any(reasons.values())
        for name, reason in reasons.items():
            if reason:
                gate.sides[name].invalid.append(reason)
                if len(gate.sides[name].invalid) > RETRIES:
                    count = len(gate.sides[name].invalid)
                    raise MeasurementError(f"{name} was not measured validly ({count} processes): {reason}")
        if not any(reasons.values()):
            gate.changes.append(changes)
            for name in names:
                gate.sides[name].records.append(records[name])


# (device, arm) -> the answers of both sides to the same images
Differences = dict[tuple[str, str], PairedAnswers]


def _accuracy(found: Differences, margins: Margins) -> list[Tested]:
    """Tests of top-1."""
    tested = []
    for (device, arm), answers in found.items():
        base, head = 100 * float(answers.before.mean()), 100 * float(answers.after.mean())
        delta = answers.estimate(1 - 2 * TOTAL_ALPHA)
        detail = "" if answers.changed else f"{arm} gave the same answer to each of {len(answers.before)} images"
        change = Change(device, arm, TOP1, base, head, delta, margins.top1, INCONCLUSIVE, detail)
        tested.append(Tested(change, answers))
    return tested


def _oom(record: RunRecord) -> dict[tuple[str, str], Arm]:
    return {(arm.device, arm.arm): arm for arm in record.arms if arm.verdict == "OOM"}


def _out_of_memory(base: Measured, head: Measured) -> list[Change]:
    """Arms that fit in every process of the base and in none of the head: failures whatever the statistics say."""
    changes = []
    for key, arm in _oom(head.records[0]).items():
        lost = all(key in _oom(record) for record in head.records)
        if lost and not any(key in _oom(record) for record in base.records) and (*key, RATE) in base.readings()[0]:
            detail = f"{arm.arm} does not fit into memory any more"
            rate = base.readings()[0][*key, RATE]
            changes.append(Change(*key, RATE, rate, 0.0, Estimate(-1.0), 0.0, FAIL, detail))
    return changes


def _notes(base: Measured, head: Measured, judged: Sequence[Change]) -> Iterator[str]:
    for side in (base, head):
        if side.invalid:
            yield f"{side.name}: {len(side.invalid)} process(es) measured again ({side.invalid[-1]})"
    yield from dict.fromkeys(change.detail for change in judged if change.detail)
    known = {(change.device, change.arm) for change in judged}
    for side in (base, head):
        here = {(device, arm) for device, arm, _ in side.readings()[0]}
        only = sorted({arm for device, arm in here - known})
        if only:
            yield f"only measured in {side.name}, not judged: {', '.join(only)}"


def run_gate(
    names: tuple[str, str],
    measure: Measure,
    rules: Rules,
    accuracy: Callable[[RunRecord, RunRecord], Differences] | None = None,
    stored: Sequence[Measured] = (),
    changes_of: Callable[[RunRecord, RunRecord], Readings] | None = None,
) -> Comparison:
    """Measure `rules.pairs` processes a side, once as many more if these can make an unclear answer clear, and judge.

    `accuracy` compares the predictions of the first process of each side by image. `changes_of`: the logarithmic changes
    within a pair, for pairs whose processes took turns; for others they are those of the processes' values. With `stored`
    sides nothing fails: what would have is inconclusive. Raises `MeasurementError` (exit code 5) for simulated or invalid
    data, and where no arm was measured on both sides: that is neither a pass nor a regression.
    """
    gate = _Gate({name: Measured(name) for name in SIDES} | {side.name: side for side in stored}, measure, changes_of)
    base, head = gate.sides["base"], gate.sides["head"]
    changes: tuple[Change, ...] = ()
    answers: list[Tested] | None = None
    extended = False
    for alpha in ALPHAS if len(stored) < len(SIDES) else ALPHAS[-1:]:
        extended = bool(changes)
        _measure_pairs(gate, rules.pairs)
        tested = collect(base.readings(), head.readings(), rules.margins, alpha, None if stored else gate.changes)
        lost = _out_of_memory(base, head)
        if not tested and not lost:
            raise MeasurementError("no arm was measured in two processes of each side, so nothing is known; check --r")
        if answers is None:
            found = accuracy(base.records[0], head.records[0]) if accuracy is not None else {}
            answers = _accuracy(found, rules.margins)
        changes = (*lost, *judge([*tested, *answers], alpha))
        if overall(changes) != INCONCLUSIVE or all(c.metric == TOP1 for c in changes if c.outcome == INCONCLUSIVE):
            break  # more processes bring no new images
    comparison = Comparison(
        kind="gate",
        base=names[0],
        head=names[1],
        outcome=overall(changes),
        changes=changes,
        notes=tuple(_notes(base, head, changes)),
        pairs=max(len(side.records) for side in (base, head)),
        extended=extended,
    )
    return advise(comparison) if stored else comparison


def advise(comparison: Comparison) -> Comparison:
    """The same where a side was measured another day: driver, heat and clocks may differ, so nothing fails by it."""
    detail = "advisory: a stored run is from another time; measure both sides fresh to be sure"
    changes = tuple(
        replace(change, outcome=INCONCLUSIVE, detail=detail) if change.outcome == FAIL else change
        for change in comparison.changes
    )
    return replace(comparison, changes=changes, outcome=overall(changes), advisory=True)
