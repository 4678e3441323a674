"""Merge runs from several machines: every cell once, contradictions named, every number traceable to its run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rmeeto_bench.errors import DataError
from rmeeto_bench.fleet.join.parts import Part, PartSource, as_plan, take_apart
from rmeeto_bench.records.run import Arm, DeviceRecord, Estimate, RunRecord
from rmeeto_bench.version import __version__

SHOWN = 3  # contradictions named in one error


@dataclass(frozen=True)
class Taken:
    """Which raw rows of a given run belong to the merged one."""

    folder: Path  # of the given run
    rows: dict[tuple[str, str], str]  # (device id in that run, arm) -> lasting device id


@dataclass(frozen=True)
class Merged:
    """A merged run before it is written."""

    record: RunRecord  # the joined record
    notes: tuple[str, ...]  # duplicates, repeats and mixed versions, one sentence each
    taken: tuple[Taken, ...]  # what to take of each given run, in their order


@dataclass(frozen=True)
class _Candidate:
    """One arm as one given run has it."""

    part: Part  # source and device
    arm: Arm  # its row
    given: int  # position of the run in the list

    @property
    def run_id(self) -> str:
        return self.part.source.run_id

    @property
    def rank(self) -> tuple[bool, int, int, bool, tuple[str, str, str]]:
        """Larger is better: measured at all, more rounds, more images, from a complete run, newer."""
        source, arm = self.part.source, self.arm
        return arm.known, arm.rounds, arm.n_images, source.status == "complete", source.order


def _overlap(first: Estimate | None, second: Estimate | None) -> bool:
    """Whether the intervals of two estimates overlap. A missing estimate contradicts nothing."""
    if first is None or second is None:
        return True

    def ends(estimate: Estimate) -> tuple[float, float]:
        low = estimate.value if estimate.low is None else estimate.low
        high = estimate.value if estimate.high is None else estimate.high
        return low, high

    (low, high), (other_low, other_high) = ends(first), ends(second)
    return low <= other_high and other_low <= high


def _contradiction(first: _Candidate, second: _Candidate) -> str | None:
    """Why the two cannot be measurements of one cell, or None."""
    where = f"{first.arm.arm} on {first.part.device.name} ({first.arm.device}) in {first.run_id} and {second.run_id}"
    if not first.arm.known or not second.arm.known:
        return None  # an arm that failed says nothing about one that did not
    differences = first.part.key(first.arm).differences(second.part.key(second.arm))
    if differences:
        return f"{where}: {', '.join(differences)}"
    if first.run_id == second.run_id:
        return None  # an earlier and a later copy of one run
    for name, unit in (("images_per_second", "images/s"), ("top1", "% top-1")):
        mine, theirs = getattr(first.arm, name), getattr(second.arm, name)
        if not _overlap(mine, theirs):
            return f"{where}: {mine.value:.5g} and {theirs.value:.5g} {unit}, further apart than their intervals"
    return None


def _same(first: _Candidate, second: _Candidate) -> bool:
    return first.run_id == second.run_id and first.arm == second.arm


def _settle(candidates: list[_Candidate], prefer: str | None, notes: dict[str, None]) -> tuple[_Candidate, list[str]]:
    """The candidate that a slot gets, and the contradictions that forbid it."""
    preferred = [candidate for candidate in candidates if candidate.run_id == prefer]
    best = max(preferred or candidates, key=lambda candidate: candidate.rank)
    conflicts = []
    for other in candidates:
        if other is best:
            continue
        where = f"{other.arm.arm} on {other.part.device.name}"
        if _same(best, other):
            notes[f"{best.run_id} was given twice: its {where} is kept once"] = None
            continue
        reason = _contradiction(best, other)
        if best.run_id != other.run_id and not other.arm.known:
            notes[f"{where} was not measured in {other.run_id} ({other.arm.verdict}): it is taken from {best.run_id}"] = None
        elif reason is not None and not preferred:
            conflicts.append(reason)
        elif reason is not None:
            notes[f"{other.run_id} contradicts the preferred {best.run_id}: its {where} is left out"] = None
        elif best.run_id == other.run_id:
            notes[f"two copies of {best.run_id} differ: {where} is taken from the one with more rounds"] = None
        else:
            notes[f"{where} was measured in {best.run_id} and in {other.run_id}: {_why(best, other)} is kept"] = None
    return best, conflicts


def _why(best: _Candidate, other: _Candidate) -> str:
    """What the better of two measurements has that the other has not, in the order of `rank`."""
    if best.arm.rounds != other.arm.rounds:
        return "the one with more rounds"
    if best.arm.n_images != other.arm.n_images:
        return "the one with more images"
    if best.part.source.status != other.part.source.status:
        return "the one of the complete run"
    return "the newer one"


def _refuse(conflicts: Sequence[str]) -> None:
    if conflicts:
        more = "" if len(conflicts) <= SHOWN else f"; and {len(conflicts) - SHOWN} more"
        shown = "; ".join(list(dict.fromkeys(conflicts))[:SHOWN])
        raise DataError(f"the runs contradict each other: {shown}{more}; leave one out or say --prefer RUN_ID")


def _check_devices(parts: Iterable[Part]) -> None:
    """Check that one id always means one device. Raises `DataError`."""
    seen: dict[str, tuple[Part, DeviceRecord]] = {}
    for part in parts:
        earlier, device = seen.setdefault(part.device.id, (part, part.device))
        if (device.name, device.profile) != (part.device.name, part.device.profile):
            raise DataError(
                f"{device.id} is {device.name} ({device.profile}) in {earlier.source.run_id} but {part.device.name} "
                f"({part.device.profile}) in {part.source.run_id}; measure with one version and one set of profiles"
            )


def _join_data(sources: Iterable[PartSource], used: dict[str, set[str]]) -> tuple[dict[str, object], list[str]]:
    """What each model was evaluated on, and the contradictions: top-1 on other images cannot be compared.

    `used`: run id -> its models that have an accuracy here.
    """
    data: dict[str, object] = {}
    by_model: dict[str, dict[str, str]] = {}
    for source in sources:
        for model, described in source.data.items():
            evaluated = model in used.get(source.run_id, ())
            if evaluated or model not in data:
                data[model] = described
            name = described.get("name") if isinstance(described, dict) else None
            if evaluated and name:
                by_model.setdefault(model, {}).setdefault(str(name), source.run_id)
    conflicts = [
        f"{model} was evaluated on " + " and on ".join(f"{name} in {run}" for name, run in names.items())
        for model, names in by_model.items()
        if len(names) > 1
    ]
    return data, conflicts


SourceKey = tuple[str, str, str]


def _credited(chosen: list[_Candidate]) -> list[PartSource]:
    """The sources that contributed, oldest first, each with the arms taken from it."""
    arms: dict[SourceKey, dict[str, tuple[str, ...]]] = {}
    sources: dict[SourceKey, PartSource] = {}
    for candidate in chosen:
        source = candidate.part.source
        sources[source.order] = source
        taken = arms.setdefault(source.order, {})
        taken[candidate.arm.device] = (*taken.get(candidate.arm.device, ()), candidate.arm.arm)
    ordered = sorted(sources)
    return [replace(sources[key], arms={d: tuple(sorted(n)) for d, n in sorted(arms[key].items())}) for key in ordered]


def _status(of_sources: set[str]) -> str:
    """Complete if all are; a run that still runs, or was killed, counts as interrupted."""
    if of_sources == {"complete"}:
        return "complete"
    return "failed" if "failed" in of_sources else "interrupted"


def _record(chosen: list[_Candidate], sources: list[PartSource], data: dict[str, object]) -> RunRecord:
    devices: dict[str, DeviceRecord] = {}
    for candidate in sorted(chosen, key=lambda c: c.part.source.order):
        devices[candidate.part.device.id] = candidate.part.device  # the newest description
    digest = hashlib.sha256("".join(source.sha256 for source in sources).encode()).hexdigest()
    sweep = [row for candidate in chosen for row in candidate.part.sweep if row.arm == candidate.arm.arm]
    arms = sorted((candidate.arm for candidate in chosen), key=lambda arm: (arm.device, arm.model, arm.r, arm.arm))
    return RunRecord(
        run_id=f"merged-{digest[:12]}",
        created_utc=sources[-1].created_utc,
        status=_status({source.status for source in sources}),
        tool_version=__version__,
        argv=("merge", *(source.run_id for source in sources)),
        plan=as_plan(sources),
        environment={"code": sorted({source.code for source in sources})},
        devices=tuple(devices[name] for name in sorted(devices)),
        arms=tuple(arms),
        data=data,
        sweep=tuple(sorted(sweep, key=lambda row: (row.device, row.model, row.r, row.arm, row.batch_size))),
        failures=tuple(failure for source in sources for failure in source.failures),
    )


def merge(runs: Sequence[tuple[Path, RunRecord]], *, prefer: str | None = None) -> Merged:
    """Join runs, given as (folder, record), each measured or itself merged.

    Every (device, arm) appears once: of several measurements of one cell the one with more rounds, of several copies one.
    Arms of different code, precision, batch, kernels or weights in one place, rates whose intervals do not meet, and
    accuracies on different images are contradictions; `prefer` names the run that wins those. The order of `runs` does
    not matter, and merging merged runs gives what merging the originals gives.

    Raises `DataError` naming the contradictions.
    """
    parts = [(given, part) for given, (_, record) in enumerate(runs) for part in take_apart(record)]
    if not parts:
        raise DataError("none of the runs has a result; give folders of runs that measured something")
    if prefer is not None and all(part.source.run_id != prefer for _, part in parts):
        raise DataError(f"--prefer {prefer}: no such run among {', '.join(sorted({p.source.run_id for _, p in parts}))}")
    _check_devices(part for _, part in parts)
    slots: dict[tuple[str, str], list[_Candidate]] = {}
    for given, part in parts:
        for arm in part.arms:
            slots.setdefault((arm.device, arm.arm), []).append(_Candidate(part, arm, given))
    notes: dict[str, None] = {}
    chosen: list[_Candidate] = []
    conflicts: list[str] = []
    for _, candidates in sorted(slots.items()):
        best, problems = _settle(candidates, prefer, notes)
        chosen.append(best)
        conflicts += problems
    sources = _credited(chosen)
    used: dict[str, set[str]] = {}
    for candidate in chosen:
        if candidate.arm.top1 is not None:
            used.setdefault(candidate.run_id, set()).add(candidate.arm.model)
    kept = {source.run_id for source in sources}
    for run_id in sorted({part.source.run_id for _, part in parts} - kept):
        notes[f"nothing is taken from {run_id}: others have all its arms"] = None
    data, problems = _join_data(sources, used)
    _refuse(conflicts + problems)
    versions = sorted({source.code for source in sources})
    if len(versions) > 1:
        notes[f"measured by different code: {', '.join(versions)}"] = None
    taken = []
    for given, (folder, _) in enumerate(runs):
        mine = [candidate for candidate in chosen if candidate.given == given]
        taken.append(Taken(folder, {(c.part.stored_as, c.arm.arm): c.arm.device for c in mine}))
    return Merged(_record(chosen, sources, data), tuple(notes), tuple(taken))
