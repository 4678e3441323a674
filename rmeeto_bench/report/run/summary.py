"""What a run says in words: one sentence per device and model, and the notes a reader needs beside the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rmeeto_bench.measure.statistics import break_even
from rmeeto_bench.records.run import Arm, RunRecord
from rmeeto_bench.report.groups import groups
from rmeeto_bench.report.origins import origin_notes

ALPHA = 0.05
CERTAIN = 0.95  # share of resamples from which on something is said without an "if"
WITHIN = 1.0  # percentage points of top-1 that "as good as the baseline" may cost


def _fastest(arms: list[Arm]) -> str:
    """The fastest arm within a point of the baseline's accuracy, or the fastest where no accuracy is known."""
    timed = [arm for arm in arms if arm.speedup is not None]
    baseline = next((arm for arm in timed if arm.r == 0), None)
    if baseline is None:
        return "nothing was timed"
    known = baseline.top1 is not None
    good = [arm for arm in timed if not known or arm.r == 0 or (arm.delta_top1 and arm.delta_top1.value >= -WITHIN)]
    best = max(good, key=lambda arm: arm.speedup.value if arm.speedup else 0.0)
    speedup = best.speedup.value if best.speedup else 1.0
    if not known:
        return f"fastest: ratio {best.reduction_ratio:.2f} at {speedup:.2f}x (accuracy unknown: no weights or no data)"
    if best.r == 0:
        return "no merging ratio is faster than the baseline within 1 point of its top-1"
    assert best.delta_top1 is not None
    low = best.delta_top1.low
    reach = f" (its interval reaches {low:+.1f})" if low is not None and low < -WITHIN else ""
    return (
        f"fastest within 1 point of the baseline: ratio {best.reduction_ratio:.2f} at {speedup:.2f}x, "
        f"{best.delta_top1.value:+.2f} points{reach}"
    )


def _break_even(arms: list[Arm]) -> str:
    """From which ratio on merging is faster, with the interval where the run has it."""
    points = [(arm.reduction_ratio, arm.speedup.value) for arm in arms if arm.speedup is not None]
    if len(points) < 2:
        return ""
    stored = next((arm.break_even for arm in arms if arm.break_even), None)
    ratio = stored.value if stored else break_even([p[0] for p in points], [p[1] for p in points])
    if ratio is None:
        return "merging does not pay at any ratio measured"
    if ratio == 0:
        return "merging pays at every ratio measured"
    if stored is None or stored.low is None:
        return f"merging pays from ratio {ratio:.2f}"
    high = "no end" if stored.high is None else f"{stored.high:.2f}"
    return f"merging pays from ratio {ratio:.2f} [{stored.low:.2f}, {high}]"


def _ratios(arms: list[Arm]) -> str:
    return ", ".join(f"{arm.reduction_ratio:.2f}" for arm in arms)


def _notes(arms: list[Arm]) -> Iterator[str]:
    slower = [arm for arm in arms if arm.r > 0 and arm.speedup and (arm.speedup.high or arm.speedup.value) < 1]
    if slower:
        yield f"slower than no merging: ratio {_ratios(slower)}; matching costs more there than the removed tokens save"
    free = [arm for arm in arms if arm.weights == "training-free"]
    if free:
        yield f"training-free (baseline weights, merging switched on): ratio {_ratios(free)}; re-training wins accuracy back"
    alike = [arm for arm in arms if arm.top1_p is not None and arm.top1_p >= ALPHA]
    if alike:
        yield f"top-1 not measurably different from the baseline's: ratio {_ratios(alike)} (McNemar, Holm over the ratios)"
    beaten = [arm for arm in arms if arm.front_share is not None and arm.front_share < 1 - CERTAIN]
    if beaten:
        yield f"another ratio is both faster and more accurate: ratio {_ratios(beaten)}"


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
        parts = [part for part in (_fastest(arms), _break_even(arms)) if part]
        conclusion = "; ".join(parts)
        lines.append(f"{record.device(device).name}, {model}: {conclusion}.")
        lines.extend(f"  {note}" for note in (*_notes(arms), *origin_notes(arms), *_doubts(record.data.get(model, {}))))
    verdicts = dict.fromkeys((arm.verdict, arm.verdict_detail) for arm in record.arms if arm.verdict != "VALID")
    return [*lines, *(f"  {code}: {detail}" for code, detail in verdicts)]
