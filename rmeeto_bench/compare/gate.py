"""The regression gate: fresh, interleaved processes of two programs on one device, and a judgement with three outcomes.

`measure` is told the sides of a pair in their order and a number, and returns the record of each side's run; how processes
are started is `bench.sides`' business, so that everything here can be tested without any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.bench.store.untrusted import open_stored
from rmeeto_bench.compare.gate_rule import ALPHA, Margins, Readings, Tested, collect, judge, overall, paired_points
from rmeeto_bench.errors import MeasurementError
from rmeeto_bench.measure.statistics import complete_rounds, hodges_lehmann
from rmeeto_bench.records.comparison import FAIL, INCONCLUSIVE, MEMORY, RATE, SPEEDUP, TOP1, Change, Comparison
from rmeeto_bench.records.run import Arm, Estimate, RunRecord

USABLE = ("VALID", "EXPLORATORY")  # a quick session is a sound replicate: the interval comes from the processes' spread
PAIRS = 5
FEWEST = 3  # rounds that two processes must share
RETRIES = 2  # processes a side that may come out invalid and are measured again
SIDES = ("base", "head")


@dataclass(frozen=True)
class Rules:
    """How the gate judges: `pairs` processes a side, and once as many more if the answer is not clear."""

    margins: Margins = field(default_factory=Margins)
    pairs: int = PAIRS
    alpha: float = ALPHA


@dataclass
class Measured:
    """What one side has shown so far. `stored`: the sessions of a run from another day, in place of fresh processes."""

    name: str
    records: list[RunRecord] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    stored: Sequence[Readings] | None = None

    def readings(self) -> list[Readings]:
        """The values of each process."""
        return [readings_of(record) for record in self.records] if self.stored is None else list(self.stored)


Measure = Callable[[tuple[str, ...], int], Mapping[str, RunRecord]]


def order(number: int) -> tuple[str, ...]:
    """base, head; head, base; base, head; ...: a drift of the machine falls on both alike."""
    return SIDES if number % 2 == 0 else SIDES[::-1]


def readings_of(record: RunRecord) -> dict[tuple[str, str, str], float]:
    """(device, arm, metric) -> value, for every arm of a run that may be used."""
    found: dict[tuple[str, str, str], float] = {}
    for arm in record.arms:
        if arm.verdict not in USABLE or arm.images_per_second is None:
            continue
        found[arm.device, arm.arm, RATE] = arm.images_per_second.value
        if arm.r != 0 and arm.speedup is not None:
            found[arm.device, arm.arm, SPEEDUP] = arm.speedup.value
        if arm.peak_memory_mib:
            found[arm.device, arm.arm, MEMORY] = arm.peak_memory_mib
    return found


def from_store(name: str, folder: Path, record: RunRecord) -> Measured:
    """A side that was measured another day: one value per session. Raises `MeasurementError` as for a fresh one."""
    refuse_simulated(record)
    reason = invalid_reason(record)
    if reason:
        raise MeasurementError(f"{name}: {reason}")
    found: list[Readings] = []
    for device, arms, sessions in _timed(folder, record):
        for number, times in enumerate(sessions):
            found += [{}] * (number + 1 - len(found))
            found[number] = {**found[number], **_session_readings(device, arms, times)}
    return Measured(name, [record], stored=found)


def _timed(folder: Path, record: RunRecord) -> Iterator[tuple[str, list[Arm], list[dict[str, list[float]]]]]:
    """(device, arms, their seconds per image round by round in each session that is done), for every device and model."""
    with open_stored(folder) as store:
        for device, model in dict.fromkeys((arm.device, arm.model) for arm in record.arms):
            arms = [arm for arm in record.arms if (arm.device, arm.model) == (device, model) and arm.images_per_second]
            done = {session.session for session in store.sessions(device, model, "timing") if session.status == "done"}
            blocks = [block for block in store.blocks(device) if block.session in done]
            yield device, arms, complete_rounds(blocks, [arm.arm for arm in arms])


def _session_readings(
    device: str, arms: Sequence[Arm], times: Mapping[str, Sequence[float]]
) -> dict[tuple[str, str, str], float]:
    readings: dict[tuple[str, str, str], float] = {}
    baseline = next((arm.arm for arm in arms if arm.r == 0), None)
    for arm in arms:
        readings[device, arm.arm, RATE] = 1 / math.exp(hodges_lehmann(np.log(times[arm.arm])))
        if arm.r and baseline is not None:
            ratios = np.log(times[baseline]) - np.log(times[arm.arm])
            readings[device, arm.arm, SPEEDUP] = math.exp(hodges_lehmann(ratios))
    return readings


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


def _measure_pairs(sides: dict[str, Measured], measure: Measure, pairs: int) -> None:
    """As many pairs more. One with an invalid process is measured again, both sides: they belong together."""
    fresh = [name for name in SIDES if sides[name].stored is None]
    if not fresh:
        return
    wanted = len(sides[fresh[0]].records) + pairs
    attempt = len(sides[fresh[0]].records) + sum(len(sides[name].invalid) for name in fresh)
    while len(sides[fresh[0]].records) < wanted:
        names = tuple(name for name in order(attempt) if name in fresh)
        records = measure(names, attempt)
        attempt += 1
        for record in records.values():
            refuse_simulated(record)
        reasons = {name: invalid_reason(records[name]) for name in names}
        for name, reason in reasons.items():
            if reason:
                sides[name].invalid.append(reason)
                if len(sides[name].invalid) > RETRIES:
                    raise MeasurementError(f"{name} was not measured validly ({len(sides[name].invalid)} processes): {reason}")
        if not any(reasons.values()):
            for name in names:
                sides[name].records.append(records[name])


def round_changes(base: tuple[Path, RunRecord], head: tuple[Path, RunRecord]) -> Readings:
    """The logarithmic change of head over base in every rate and speed-up, from the stores of two processes that took turns:
    the Hodges-Lehmann mean over rounds, each compared with the round beside it."""
    found: dict[tuple[str, str, str], float] = {}
    first, second = (_rounds(*side) for side in (base, head))
    baselines = {arm.device + arm.model: (arm.device, arm.arm) for arm in base[1].arms if arm.r == 0}
    for arm in base[1].arms:
        count = min(len(times.get((arm.device, arm.arm), ())) for times in (first, second))
        if count < FEWEST:
            continue

        def faster(key: tuple[str, str], count: int = count) -> NDArray[np.float64]:
            return np.log(first[key][:count]) - np.log(second[key][:count])

        found[arm.device, arm.arm, RATE] = hodges_lehmann(faster((arm.device, arm.arm)))
        baseline = baselines.get(arm.device + arm.model)
        if arm.r and baseline in first and baseline in second:
            found[arm.device, arm.arm, SPEEDUP] = hodges_lehmann(faster((arm.device, arm.arm)) - faster(baseline))
    return found


def _rounds(folder: Path, record: RunRecord) -> dict[tuple[str, str], list[float]]:
    """(device, arm) -> seconds per image, round by round over all sessions."""
    return {
        (device, arm.arm): [value for times in sessions for value in times[arm.arm]]
        for device, arms, sessions in _timed(folder, record)
        for arm in arms
    }


# (device, arm) -> points of top-1 of head over base with a 90 % interval, and the two accuracies
Differences = dict[tuple[str, str], tuple[Estimate, float, float]]


def _accuracy(found: Differences, rules: Rules) -> list[Tested]:
    """Tests of top-1."""
    tested = []
    for (device, arm), (delta, base, head) in found.items():
        margin = rules.margins.of(TOP1)
        change = Change(device, arm, TOP1, base, head, delta, margin, INCONCLUSIVE)
        tested.append(Tested(change, paired_points(delta, 1 - 2 * rules.alpha)))
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
    """Measure `rules.pairs` processes a side, once as many more if the answer is not clear, and judge.

    `accuracy` compares the predictions of the first process of each side by image. `changes_of`: the logarithmic changes
    within a pair, for pairs whose processes took turns. With `stored` sides nothing fails: what
    would have is inconclusive. Raises `MeasurementError` (exit code 5)
    for simulated or invalid data, and where no arm was measured on both sides: that is neither a pass nor a regression.
    """
    sides = {name: Measured(name) for name in SIDES} | {side.name: side for side in stored}
    base, head = sides["base"], sides["head"]
    changes: tuple[Change, ...] = ()
    extended = False
    while True:
        _measure_pairs(sides, measure, rules.pairs)
        pairs = [] if changes_of is None else [changes_of(*pair) for pair in zip(base.records, head.records)]
        tested = collect(base.readings(), head.readings(), rules.margins, rules.alpha, pairs)
        lost = _out_of_memory(base, head)
        if not tested and not lost:
            raise MeasurementError("no arm was measured in two processes of each side, so nothing is known; check --r")
        if accuracy is not None:
            tested += _accuracy(accuracy(base.records[0], head.records[0]), rules)
        changes = (*lost, *judge(tested, rules.alpha))
        if overall(changes) != INCONCLUSIVE or extended or len(stored) == len(SIDES):
            break
        extended = True
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
