"""What the intervals of a run allow to say: where merging pays, and which ratio is fastest within a point.

A sentence that picks among ratios is true of the one it picks only if all of them were tested together: Holm's method over
the speed-ups, Bonferroni's over the accuracies. A claim that is not resolved is named as such, with what is excluded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scipy.special import ndtri

from rmeeto_bench.measure.statistics import ENOUGH_SESSIONS, holm, p_same
from rmeeto_bench.records.run import Arm, Estimate

ALPHA = 0.05
WITHIN = 1.0  # percentage points of top-1 that "as good as the baseline" may cost
SOUND = ("VALID", "PRECISION_NOT_REACHED", "SIMULATED")  # verdicts whose intervals cover; others resolve nothing
UNRESOLVED = "where merging pays is not resolved: that takes three processes or more"
FASTER, SLOWER, OPEN = "faster", "slower", "open"


FEW = 4  # places that a sentence names; of the others it gives the number


def enumerated(places: Sequence[str], joint: str = "; ") -> str:
    """The first of these, and how many more there are."""
    return joint.join(places[:FEW]) + (f" and {len(places) - FEW} more" if len(places) > FEW else "")


def which(arms: Sequence[Arm]) -> str:
    """`ratio 0.14, 0.31`, or the names of arms of several models."""
    return enumerated([arm.title for arm in arms], ", ") if arms[0].baseline else f"ratio {ratios(arms)}"


def ratios(arms: Sequence[Arm]) -> str:
    """The ratios of some arms, as a list."""
    return ", ".join(f"{arm.reduction_ratio:.2f}" for arm in arms)


def resolve(arms: Sequence[Arm]) -> list[str]:
    """Of each merged arm whether it is faster or slower than no merging, or open; wrong about any in at most 5 %."""
    p_values = [p_same(arm.speedup, arm.sessions) if arm.speedup is not None and arm.verdict in SOUND else 1.0 for arm in arms]
    found = []
    for arm, p in zip(arms, holm(p_values), strict=True):
        faster = arm.speedup is not None and arm.speedup.value > 1
        found.append(OPEN if p >= ALPHA else FASTER if faster else SLOWER)
    return found


def on_devices(arms: Mapping[str, Sequence[Arm]]) -> str:
    """Of one model on several devices (name -> its arms), where merging pays; tested over all devices and ratios together."""
    timed = [(device, arm) for device, mine in arms.items() for arm in mine if not arm.is_baseline and arm.speedup is not None]
    if not timed:
        return "no speed-up was measured on any device"
    if all(arm.sessions < ENOUGH_SESSIONS for _, arm in timed):
        return UNRESOLVED
    found = list(zip(timed, resolve([arm for _, arm in timed]), strict=True))
    kinds = {device: {kind for (other, _), kind in found if other == device} for device in arms}
    paying = [device for device in arms if FASTER in kinds[device]]
    if not paying:
        return f"merging is not shown to pay on any of the {len(arms)} devices"
    faster = [(device, arm) for (device, arm), kind in found if kind == FASTER]
    accurate = any(arm.top1 is not None for mine in arms.values() for arm in mine)
    good = [(device, arm) for device, arm in faster if not accurate or _surely_within(arm, len(timed))]
    best = [max((arm for other, arm in good if other == device), key=_value, default=None) for device in paying]
    everywhere = "both" if len(arms) == 2 else f"all {len(arms)}"
    text = f"merging pays on {everywhere if len(paying) == len(arms) else f'{len(paying)} of {len(arms)}'} devices"
    known = [arm for arm in best if arm is not None]
    what = " within 1 point of top-1" if accurate else ""
    if not known:
        return f"{text}, but no ratio is certain to stay{what}"
    some = "" if len(known) == len(paying) else f" on {len(known)} of them"
    return f"{text}; the fastest ratio{what} gives {_range([_value(arm) for arm in known])}x{some}, at ratio " + _range(
        [arm.reduction_ratio for arm in known]
    )


def _value(arm: Arm) -> float:
    return 0.0 if arm.speedup is None else arm.speedup.value


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _excluded(arms: Sequence[Arm]) -> str:
    """What the intervals of arms that are not resolved leave possible, in per cent."""
    known = [arm.speedup for arm in arms if arm.speedup is not None and arm.verdict in SOUND]
    lows, highs = [e.low for e in known if e.low is not None], [e.high for e in known if e.high is not None]
    if not lows or not highs or any(arm.sessions < ENOUGH_SESSIONS for arm in arms):
        return ""
    return f" (its speed is within {100 * (min(lows) - 1):+.1f} and {100 * (max(highs) - 1):+.1f} %)"


def where_it_pays(arms: Sequence[Arm], break_even: Estimate | None = None) -> str:
    """Where merging is faster than not merging. `arms`: the timed ones with r > 0; `break_even` with an interval, if known."""
    ordered = sorted(arms, key=lambda arm: arm.reduction_ratio)
    if not ordered:
        return ""
    found = resolve(ordered)
    by = {kind: [arm for arm, is_ in zip(ordered, found, strict=True) if is_ == kind] for kind in (FASTER, SLOWER, OPEN)}
    if by[OPEN] and all(arm.sessions < ENOUGH_SESSIONS for arm in ordered):
        return UNRESOLVED
    rest = []
    if by[SLOWER]:
        rest.append(f"slower at ratio {ratios(by[SLOWER])}")
    if by[OPEN]:
        rest.append(f"not resolved at ratio {ratios(by[OPEN])}{_excluded(by[OPEN])}")
    tail = "".join(f", {part}" for part in rest)
    if len(by[FASTER]) == len(ordered):
        return f"merging pays at all {len(ordered)} ratios measured, {ratios(by[FASTER])}"
    if len(by[SLOWER]) == len(ordered):
        return f"merging pays at none of the {len(ordered)} ratios measured, {ratios(by[SLOWER])}"
    if not by[FASTER]:
        return f"no ratio is shown to be faster than no merging{tail}"
    first = found.index(FASTER)
    last = len(found) - 1 - found[::-1].index(FASTER)
    run = all(kind == FASTER for kind in found[first : last + 1])
    if run and last == len(found) - 1:
        known = break_even is not None and break_even.low is not None and break_even.high is not None
        if known and break_even is not None and SLOWER in found:
            return f"merging pays from ratio {break_even.value:.2f} [{break_even.low:.2f}, {break_even.high:.2f}] on{tail}"
        return f"merging pays from ratio {ordered[first].reduction_ratio:.2f} on{tail}"
    if run and first != last and SLOWER in found[last + 1 :]:
        low, high = ordered[first].reduction_ratio, ordered[last].reduction_ratio
        return f"merging pays only between ratio {low:.2f} and {high:.2f}{tail}"
    only = "only " if SLOWER in found[last + 1 :] else ""
    return f"merging pays {only}at ratio {ratios(by[FASTER])}{tail}"


def _surely_within(arm: Arm, tested: int) -> bool:
    """Whether top-1 is within a point of the baseline's where `tested` ratios are looked at together."""
    delta = arm.delta_top1
    if delta is None or delta.low is None:
        return False
    stretch = float(ndtri(1 - ALPHA / 2 / tested) / ndtri(1 - ALPHA / 2))
    return delta.value - stretch * (delta.value - delta.low) >= -WITHIN


def speed_text(arm: Arm) -> str:
    """`1.30x [1.25, 1.35]`."""
    assert arm.speedup is not None
    low, high = arm.speedup.low, arm.speedup.high
    return f"{arm.speedup.value:.2f}x" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def fastest_within(arms: Sequence[Arm]) -> str:
    """The fastest ratio that is within a point of the baseline's top-1, or the fastest where no accuracy is known."""
    baseline = next((arm for arm in arms if arm.is_baseline), None)
    timed = [arm for arm in arms if arm.speedup is not None and not arm.is_baseline]
    if baseline is None or baseline.speedup is None:
        return "nothing was timed"
    if not timed:
        return "only r = 0 was measured; add --ratios 0,0.14,...,0.54 to see what merging gains"
    found = dict(zip((arm.arm for arm in timed), resolve(timed), strict=True))
    by_speed = sorted(timed, key=lambda arm: -arm.speedup.value if arm.speedup else 0.0)
    if baseline.top1 is None:
        faster = [arm for arm in by_speed if found[arm.arm] == FASTER]
        why = "accuracy is unknown, without weights or without data"
        return f"ratio {faster[0].reduction_ratio:.2f} is the fastest at {speed_text(faster[0])}; {why}" if faster else why
    sure = [arm for arm in by_speed if found[arm.arm] == FASTER and _surely_within(arm, len(timed))]
    perhaps = [
        arm
        for arm in by_speed
        if arm not in sure and found[arm.arm] != SLOWER and arm.delta_top1 and (arm.delta_top1.high or 0.0) >= -WITHIN
    ]
    if sure:
        best = sure[0]
        assert best.delta_top1 is not None
        perhaps = [arm for arm in perhaps if by_speed.index(arm) < by_speed.index(best)]
        text = f"ratio {best.reduction_ratio:.2f} is the fastest within 1 point of the baseline, at {speed_text(best)}"
        text += f" and {best.delta_top1.value:+.2f} points"
    else:
        text = "no ratio is shown to be faster than the baseline and within 1 point of its top-1"
    perhaps.sort(key=lambda arm: arm.reduction_ratio)
    return text + (f", not resolved for ratio {ratios(perhaps)}" if perhaps else "")
