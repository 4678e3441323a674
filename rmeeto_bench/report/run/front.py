"""What a run of several models says: which arms are faster than the baseline, and who is on the front of speed and accuracy.

An arm is on the front if no other arm is at least as fast and as accurate, and behind it if one is both faster and more
accurate. Both are said only where a test over all arms shows it; the rest is named as not resolved.
"""

from __future__ import annotations

from collections.abc import Sequence

from rmeeto_bench.measure.statistics import ENOUGH_SESSIONS
from rmeeto_bench.records.run import Arm
from rmeeto_bench.report.run.claims import ALPHA, FASTER, OPEN, SLOWER, SOUND, enumerated, resolve, speed_text

TOO_FEW = "that takes three processes or more"


def placed(arms: Sequence[Arm]) -> list[Arm]:
    """The arms with a place in the plane of speed and accuracy."""
    return [arm for arm in arms if arm.images_per_second and arm.top1]


def front_by_values(arms: Sequence[Arm]) -> list[Arm]:
    """The arms that no other beats by the values alone, the fastest first."""
    found: list[Arm] = []
    for arm in sorted(placed(arms), key=lambda arm: (-_rate(arm), -_top1(arm))):
        if not found or _top1(arm) > _top1(found[-1]):
            found.append(arm)
    return found


def _rate(arm: Arm) -> float:
    return arm.images_per_second.value if arm.images_per_second else 0.0


def _top1(arm: Arm) -> float:
    return arm.top1.value if arm.top1 else 0.0


def _names(arms: Sequence[Arm]) -> str:
    return enumerated([arm.title for arm in arms], ", ")


def compared(arms: Sequence[Arm]) -> list[str]:
    """The parts of the sentence of a table of several models."""
    if not any(arm.speedup for arm in arms):
        return [f"nothing was timed, as {arms[0].baseline} did not run"]
    timed = [arm for arm in arms if arm.speedup is not None and not arm.is_baseline]
    if timed and all(arm.sessions < ENOUGH_SESSIONS for arm in timed):
        return [_unresolved(arms)]
    return [part for part in (_on_front(arms), *_speeds(timed, arms)) if part]


def _unresolved(arms: Sequence[Arm]) -> str:
    """What there is to say of too few processes."""
    if len(placed(arms)) < 2:
        return f"who is faster is not resolved, as {TOO_FEW}; no two arms have an accuracy"
    best = _names(front_by_values(arms))
    return f"who is faster, and who is on the front of speed and accuracy, is not resolved, as {TOO_FEW}; by the values " + (
        f"alone the front is {best}{_unknown(arms)}"
    )


def _unknown(arms: Sequence[Arm]) -> str:
    without = [arm for arm in arms if arm.images_per_second and not arm.top1]
    return f"; the accuracy of {_names(without)} is not known" if without else ""


def _on_front(arms: Sequence[Arm]) -> str:
    known = placed(arms)
    if len(known) < 2:
        return "no two arms have an accuracy, so only speeds are compared" if len(arms) > 1 else ""
    sound = [arm for arm in known if arm.verdict in SOUND]
    on = [arm for arm in sound if arm.front_p is not None and arm.front_p < ALPHA]
    behind = [arm for arm in sound if arm.beaten_p is not None and arm.beaten_p < ALPHA]
    open_ = [arm for arm in known if arm not in on and arm not in behind]
    parts = [f"on the front of speed and accuracy: {_names(on)}" if on else "no arm is shown to be on the front"]
    parts += [f"behind it: {_names(behind)}"] if behind else []
    parts += [f"not resolved: {_names(open_)}"] if open_ else []
    return "; ".join(parts) + _unknown(arms)


def _speeds(timed: Sequence[Arm], arms: Sequence[Arm]) -> list[str]:
    baseline = next((arm.title for arm in arms if arm.is_baseline), arms[0].baseline)
    if not timed:
        return ["no other arm was timed"]
    kinds = dict(zip((arm.arm for arm in timed), resolve(timed), strict=True))
    by_speed = sorted(timed, key=lambda arm: -arm.speedup.value if arm.speedup else 0.0)
    found = []
    for kind, words in ((FASTER, "faster than"), (SLOWER, "slower than"), (OPEN, "not resolved against")):
        those = [f"{arm.title} at {speed_text(arm)}" for arm in by_speed if kinds[arm.arm] == kind]
        if those:
            found.append(f"{words} {baseline}: {enumerated(those, ', ')}")
    return found
