"""What a run says in words: a headline, the conclusion of each table, and the notes that a reader needs beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rmeeto_bench.published import training_minutes
from rmeeto_bench.records.run import Arm, RunRecord
from rmeeto_bench.report.groups import groups
from rmeeto_bench.report.origins import origin_notes
from rmeeto_bench.report.run.claims import (
    ALPHA,
    SLOWER,
    enumerated,
    fastest_within,
    on_devices,
    ratios,
    resolve,
    where_it_pays,
    which,
)
from rmeeto_bench.report.run.front import compared

IMAGENET = 1_281_167  # training images of ImageNet-1k
SHOWN = 5  # images of one problem that are named


def _notes(arms: list[Arm]) -> Iterator[str]:
    timed = [arm for arm in arms if not arm.is_baseline and arm.speedup and not arm.baseline]
    slower = [arm for arm, kind in zip(timed, resolve(timed), strict=True) if kind == SLOWER]
    if slower:
        yield f"slower than no merging: ratio {ratios(slower)}; matching costs more there than the removed tokens save"
    free = [arm for arm in arms if arm.weights == "training-free" and arm.what != "train"]
    if free:
        yield f"training-free (baseline weights, merging switched on): {which(free)}; re-training wins accuracy back"
    compiled = {arm.arm: arm.compile_seconds for arm in arms if arm.compile_seconds is not None}
    if compiled:
        each = enumerated([f"{name} {seconds:.0f} s" for name, seconds in compiled.items()], ", ")
        yield f"compiling took {sum(compiled.values()):.0f} s, apart from all times: {each}"
    for arm in arms:
        delta = arm.delta_top1
        if arm.top1_p is not None and arm.top1_p >= ALPHA and delta and delta.low is not None and delta.high is not None:
            alone = f"its interval alone is [{delta.low:+.2f}, {delta.high:+.2f}] points"
            yield f"top-1 {_place(arm)}: no change is proven (McNemar, Holm over {_all(arm)}); {alone}"
        elif arm.top1_p is not None and arm.top1_p < ALPHA and delta and not arm.speedup:
            yield f"top-1 {_place(arm)}: {delta.value:+.2f} points (McNemar, Holm over {_all(arm)})"
    beaten = [arm for arm in arms if arm.beaten_p is not None and arm.beaten_p < ALPHA]
    if beaten and not beaten[0].baseline:
        yield f"another ratio is both faster and more accurate: ratio {ratios(beaten)}"


def _place(arm: Arm) -> str:
    return f"of {arm.title}" if arm.baseline else f"at ratio {arm.reduction_ratio:.2f}"


def _all(arm: Arm) -> str:
    return "the arms" if arm.baseline else "the ratios"


def _doubts(data: Mapping[str, Any]) -> Iterator[str]:
    kinds: dict[tuple[bool, str], list[str]] = {}
    for problem in data.get("problems", ()):
        kinds.setdefault((problem["skipped"], re.split(r"[:,]| \(", problem["reason"])[0]), []).append(problem["path"])
    for (left_out, reason), paths in kinds.items():
        more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        yield f"{'left out' if left_out else 'read with care'}, {len(paths)}: {reason}: {', '.join(paths[:SHOWN])}{more}"
    if data.get("energy_doubt"):
        yield f"do not trust joules per image here: {data['energy_doubt']}"
    if data.get("hint"):
        yield f"the accuracy is doubtful: {data['hint']}"


def _evaluated(data: Mapping[str, Any]) -> str:
    """What an evaluation, which timed nothing, is of."""
    return f"{data.get('images', 0):,} of {data.get('of', 0):,} images of {data.get('name')}, each decoded once for all arms"


@dataclass(frozen=True)
class Story:
    """What a run says, in the order in which page and terminal say it."""

    headlines: list[str]  # a sentence for each model
    # (device, model) -> conclusion of its table; none where the headline says all of it
    conclusions: dict[tuple[str, str], str]
    notes: list[str]  # what a reader needs beside the tables, each once
    verdicts: list[str]  # what each verdict but VALID means


def story(record: RunRecord) -> Story:
    """A headline for each model, the conclusion of each device where they differ, and each note once."""
    headlines: list[str] = []
    conclusions: dict[tuple[str, str], str] = {}
    noted: dict[str, list[str]] = {}
    known = list(groups(record))
    for model in dict.fromkeys(model for _, model, _ in known):
        mine = {device: arms for device, of, arms in known if of == model}
        data = {name: record.data.get(name, {}) for name in dict.fromkeys(arm.model for arms in mine.values() for arm in arms)}
        seen: Mapping[str, Any] = next((one for one in data.values() if one.get("images")), {})
        said = {device: _conclusion(arms, seen) for device, arms in mine.items()}
        first = next(iter(said))
        alike = [part for part in said[first] if all(part in parts for parts in said.values())]
        if len(mine) == 1 or mine[first][0].baseline:
            headlines += [f"{record.label(device)}, {model}: {'; '.join(parts)}." for device, parts in said.items()]
        else:
            own = {device: [part for part in parts if part not in alike] for device, parts in said.items()}
            if any(own.values()):
                headlines.append(f"{model}: {on_devices(mine)}.")
            if alike:
                headlines.append(f"{model} on each of {len(mine)} devices: {'; '.join(alike)}.")
            named = {device: f"{record.label(device)}, {model}" for device in mine}
            conclusions |= {(device, model): f"{named[device]}: {'; '.join(parts)}." for device, parts in own.items() if parts}
        for device, arms in mine.items():
            for note in (*_notes(arms), *origin_notes(arms), *(doubt for known in data.values() for doubt in _doubts(known))):
                noted.setdefault(note, []).append(f"{record.label(device)}, {model}")
    verdicts = dict.fromkeys((arm.verdict, arm.verdict_detail) for arm in record.arms if arm.verdict != "VALID")
    notes = [_whose(places, len(known)) + note for note, places in noted.items()]
    meanings = [f"{code}: {detail}" for code, detail in verdicts]
    return Story(headlines or ["Nothing was measured."], conclusions, notes, meanings)


def _conclusion(arms: list[Arm], data: Mapping[str, Any]) -> list[str]:
    """In parts, so that those in which all devices agree can be said once."""
    missing = arms[0].baseline and not any(arm.known for arm in arms if arm.is_baseline)
    if any(arm.top1 for arm in arms) and not any(arm.images_per_second for arm in arms) and not missing:
        return [_evaluated(data)]
    if arms[0].baseline:
        return compared(arms)
    timed = [arm for arm in arms if arm.speedup is not None and arm.r > 0]
    if arms[0].what == "train":
        return [where_it_pays(timed), *_epoch(arms)]
    pays = where_it_pays(timed, next((arm.break_even for arm in arms if arm.break_even), None))
    return [part for text in (fastest_within(arms), pays) for part in text.split("; ") if part]


def _epoch(arms: list[Arm]) -> Iterator[str]:
    """How long an epoch of ImageNet-1k would take, beside what the paper took for three."""
    known = [arm for arm in arms if arm.images_per_second is not None]
    minutes = [f"{IMAGENET / arm.images_per_second.value / 60:.3g}" for arm in known if arm.images_per_second]
    told = training_minutes(arms[0].model)
    if minutes and told:
        places = ", ".join(f"{arm.reduction_ratio:.2f}" for arm in known)
        yield f"an epoch of ImageNet-1k would take {', '.join(minutes)} min at ratio {places} (a projection, data at hand)"
        yield f"three epochs took the paper {told} (Table 3)"


def _whose(places: list[str], tables: int) -> str:
    """Which tables a note is about, in front of it; nothing where it is about all of them."""
    if len(places) == tables:
        return ""
    return enumerated(places) + ": "


def sentences(record: RunRecord) -> list[str]:
    """All that a run says, line by line: headlines, conclusions, notes."""
    told = story(record)
    return [*told.headlines, *told.conclusions.values(), *(f"  {note}" for note in (*told.notes, *told.verdicts))]
