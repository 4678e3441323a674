"""What a run says in words: one sentence per device and model, and the notes a reader needs beside the table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rmeeto_bench.records.run import Arm, RunRecord
from rmeeto_bench.report.groups import groups
from rmeeto_bench.report.origins import origin_notes
from rmeeto_bench.report.run.claims import ALPHA, SLOWER, fastest_within, ratios, resolve, where_it_pays

SHOWN = 5  # images of one problem that are named


def _notes(arms: list[Arm]) -> Iterator[str]:
    timed = [arm for arm in arms if arm.r > 0 and arm.speedup]
    slower = [arm for arm, kind in zip(timed, resolve(timed), strict=True) if kind == SLOWER]
    if slower:
        yield f"slower than no merging: ratio {ratios(slower)}; matching costs more there than the removed tokens save"
    free = [arm for arm in arms if arm.weights == "training-free"]
    if free:
        yield f"training-free (baseline weights, merging switched on): ratio {ratios(free)}; re-training wins accuracy back"
    for arm in arms:
        delta = arm.delta_top1
        if arm.top1_p is not None and arm.top1_p >= ALPHA and delta and delta.low is not None and delta.high is not None:
            alone = f"its interval alone is [{delta.low:+.2f}, {delta.high:+.2f}] points"
            yield f"top-1 at ratio {arm.reduction_ratio:.2f}: no change is proven (McNemar, Holm over the ratios); {alone}"
        elif arm.top1_p is not None and arm.top1_p < ALPHA and delta and not arm.speedup:
            yield f"top-1 at ratio {arm.reduction_ratio:.2f}: {delta.value:+.2f} points (McNemar, Holm over the ratios)"
    beaten = [arm for arm in arms if arm.beaten_p is not None and arm.beaten_p < ALPHA]
    if beaten:
        yield f"another ratio is both faster and more accurate: ratio {ratios(beaten)}"


def _doubts(data: Mapping[str, Any]) -> Iterator[str]:
    kinds: dict[tuple[bool, str], list[str]] = {}
    for problem in data.get("problems", ()):
        kinds.setdefault((problem["skipped"], re.split(r"[:,]| \(", problem["reason"])[0]), []).append(problem["path"])
    for (left_out, reason), paths in kinds.items():
        more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        yield f"{'left out' if left_out else 'read with care'}, {len(paths)}: {reason}: {', '.join(paths[:SHOWN])}{more}"
    if data.get("energy_doubt"):
        yield f"joules per image are not to be trusted here: {data['energy_doubt']}"
    if data.get("hint"):
        yield f"the accuracy is doubtful: {data['hint']}"


def _evaluated(data: Mapping[str, Any]) -> str:
    """What an evaluation, which timed nothing, is of."""
    return f"{data.get('images', 0)} of {data.get('of', 0)} images of {data.get('name')}, each decoded once for all ratios"


def sentences(record: RunRecord) -> list[str]:
    """The conclusion of each device and model, then its notes; at the end what each verdict means."""
    lines = []
    for device, model, arms in groups(record):
        timed = [arm for arm in arms if arm.speedup is not None and arm.r > 0]
        pays = where_it_pays(timed, next((arm.break_even for arm in arms if arm.break_even), None))
        conclusion = "; ".join(part for part in (fastest_within(arms), pays) if part)
        if any(arm.top1 for arm in arms) and not any(arm.images_per_second for arm in arms):
            conclusion = _evaluated(record.data.get(model, {}))
        lines.append(f"{record.device(device).name}, {model}: {conclusion}.")
        lines.extend(f"  {note}" for note in (*_notes(arms), *origin_notes(arms), *_doubts(record.data.get(model, {}))))
    verdicts = dict.fromkeys((arm.verdict, arm.verdict_detail) for arm in record.arms if arm.verdict != "VALID")
    return [*lines, *(f"  {code}: {detail}" for code, detail in verdicts)]
