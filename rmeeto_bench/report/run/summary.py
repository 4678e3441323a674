"""What a run says in words: one sentence per device and model, and the notes a reader needs beside the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rmeeto_bench.records.run import Arm, RunRecord
from rmeeto_bench.report.groups import groups
from rmeeto_bench.report.origins import origin_notes
from rmeeto_bench.report.run.claims import ALPHA, SLOWER, fastest_within, ratios, resolve, where_it_pays


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
    beaten = [arm for arm in arms if arm.beaten_p is not None and arm.beaten_p < ALPHA]
    if beaten:
        yield f"another ratio is both faster and more accurate: ratio {ratios(beaten)}"


def _doubts(data: Mapping[str, Any]) -> Iterator[str]:
    if data.get("unreadable"):
        yield f"{data['unreadable']} images could not be read and count for nothing; `rmeeto-bench eval` names them"
    if data.get("energy_doubt"):
        yield f"joules per image are not to be trusted here: {data['energy_doubt']}"
    if data.get("hint"):
        yield f"the accuracy is doubtful: {data['hint']}"


def sentences(record: RunRecord) -> list[str]:
    """The conclusion of each device and model, then its notes; at the end what each verdict means."""
    lines = []
    for device, model, arms in groups(record):
        timed = [arm for arm in arms if arm.speedup is not None and arm.r > 0]
        pays = where_it_pays(timed, next((arm.break_even for arm in arms if arm.break_even), None))
        conclusion = "; ".join(part for part in (fastest_within(arms), pays) if part)
        lines.append(f"{record.device(device).name}, {model}: {conclusion}.")
        lines.extend(f"  {note}" for note in (*_notes(arms), *origin_notes(arms), *_doubts(record.data.get(model, {}))))
    verdicts = dict.fromkeys((arm.verdict, arm.verdict_detail) for arm in record.arms if arm.verdict != "VALID")
    return [*lines, *(f"  {code}: {detail}" for code, detail in verdicts)]
