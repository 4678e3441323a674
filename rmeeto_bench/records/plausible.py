"""Check the numbers of a manifest: ranges, intervals, counts and names that a run can have.

`check` has seen to the types. What passes here can be drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rmeeto_bench.errors import DataError
from rmeeto_bench.records.check import check

if TYPE_CHECKING:
    from rmeeto_bench.records.run import Arm, Estimate, RunRecord, SweepRow

MOST = {"devices": 512, "arms": 4096, "sweep": 50_000}  # entries of a manifest
LONGEST_NAME = 300  # characters of a device, a model, an arm, an id
LARGEST = 1e12  # of a rate, a time, a size
LARGEST_R = 100_000
LARGEST_COUNT = 10**12
SLACK = 1e-6  # relative to the width of numbers, for rounding
LINE_ENDS = re.compile("[\t\n]")

# Field -> (lowest, highest). Rates and ratios are above zero, as their logarithms are taken.
TINY = 1e-12
ESTIMATE_RANGES = {
    "images_per_second": (TINY, LARGEST),
    "speedup": (TINY, LARGEST),
    "top1": (0.0, 100.0),
    "top5": (0.0, 100.0),
    "delta_top1": (-100.0, 100.0),
    "noise_speed": (TINY, LARGEST),
    "images_per_second_per_point": (-LARGEST, LARGEST),
    "break_even": (0.0, 1.0),
    "joules_per_image": (TINY, LARGEST),
}
LOOSE = ("images_per_second_per_point", "break_even")  # intervals by resampling, which need not hold the value itself
NUMBER_RANGES = {
    "r": (0, LARGEST_R),
    "ratio_requested": (0.0, 1.0),
    "reduction_ratio": (0.0, 1.0),
    "final_tokens": (0, LARGEST_R * 100),
    "batch_size": (1, LARGEST_COUNT),
    "n_images": (0, LARGEST_COUNT),
    "rounds": (0, LARGEST_COUNT),
    "sessions": (0, LARGEST_COUNT),
    "top1_p": (0.0, 1.0),
    "beaten_p": (0.0, 1.0),
    "front_p": (0.0, 1.0),
    "calibration_error": (0.0, 100.0),
    "agreement": (0.0, 100.0),
    "peak_memory_mib": (0.0, LARGEST),
    "compile_seconds": (0.0, LARGEST),
    "recompilations": (0, LARGEST_COUNT),
}
PROBLEM = {"path", "reason", "skipped"}  # what is kept of an image that was left out, or read with care
PARTS = {  # dictionary of numbers -> the keys that every table needs
    "paper": ("images_per_second",),
    "paper_mode": ("images_per_second", "speedup"),
    "latency_ms": ("p50",),
    "fed": ("images_per_second", "decode", "transfer", "forward"),
    "gflops": (),
}


def _number(value: float, low: float, high: float, where: str) -> None:
    if not low <= value <= high:
        raise DataError(f"{where} is {value}, which no run has; it must lie between {low:g} and {high:g}")


def _estimate(name: str, found: Estimate, where: str) -> None:
    low, high = ESTIMATE_RANGES[name]
    slack = SLACK * max(1.0, abs(found.value)) if low < 0 or high <= 100 else SLACK * abs(found.value)
    for end, value in (("value", found.value), ("low", found.low), ("high", found.high)):
        if value is not None:
            _number(value, low - slack if low <= 0 else low, high + slack, f"{where}.{name}.{end}")
    if name in LOOSE:
        inside = found.low is None or found.high is None or found.low <= found.high + slack
    else:
        above = found.low is None or found.low <= found.value + slack
        inside = above and (found.high is None or found.value <= found.high + slack)
    if not inside:
        raise DataError(f"{where}.{name} is {found.value:g} outside its own interval; it was tampered with")


def _name(text: str, where: str) -> None:
    if len(text) > LONGEST_NAME or LINE_ENDS.search(text):
        raise DataError(f"{where} is no name: {text[:40]!r} has {len(text)} characters, or a line break")


def _arm(arm: Arm, where: str) -> None:
    for name in ("arm", "model", "precision", "backend", "weights", "verdict", "baseline"):
        _name(getattr(arm, name), f"{where}.{name}")
    for label in arm.labels:
        _name(label, f"{where}.labels")
    for name, (low, high) in NUMBER_RANGES.items():
        value = getattr(arm, name)
        if value is not None:
            _number(value, low, high, f"{where}.{name}")
    for name in ESTIMATE_RANGES:
        found = getattr(arm, name)
        if found is not None:
            _estimate(name, found, where)
    for name, needed in PARTS.items():
        parts = getattr(arm, name) or {}
        missing = [key for key in needed if parts and key not in parts]
        if missing or (needed and getattr(arm, name) == {}):
            raise DataError(f"{where}.{name} lacks {', '.join(missing or needed)}; it was tampered with")
        for key, value in parts.items():
            _name(key, f"a name in {where}.{name}")
            least = -LARGEST if key.startswith("analytic") else 0.0  # upstream's formula never clamps r: below 0 at few tokens
            _number(value, TINY if key in needed else least, LARGEST, f"{where}.{name}.{key}")
    if arm.arm != f"{arm.model}/r{arm.r}":
        raise DataError(f"{where} is called {arm.arm!r} but is {arm.model} at r = {arm.r}; it was tampered with")
    counts = arm.token_counts or (0,)  # of a model of others nothing is known
    if min(counts) < 0 or counts[-1] != arm.final_tokens:
        raise DataError(f"{where}.token_counts do not end with its {arm.final_tokens} final tokens; it was tampered with")


def _sweep(row: SweepRow, where: str) -> None:
    _number(row.batch_size, 1, LARGEST_COUNT, f"{where}.batch_size")
    _number(row.r, 0, LARGEST_R, f"{where}.r")
    for name in ("arm", "model", "verdict"):
        _name(getattr(row, name), f"{where}.{name}")
    if row.arm != f"{row.model}/r{row.r}":
        raise DataError(f"{where} is called {row.arm!r} but is {row.model} at r = {row.r}; it was tampered with")
    if row.images_per_second is not None:
        _estimate("images_per_second", row.images_per_second, where)


def _data(data: dict[str, Any]) -> None:
    """What each model saw: the entries that captions and sentences show."""
    for model, known in data.items():
        if not isinstance(known, dict):
            raise DataError(f"manifest.data.{model[:80]} must be an object; it was tampered with")
        counts = [known.get("images", 0), known.get("of", 0)]
        if any(type(count) is not int for count in counts) or (counts[0] and "name" not in known):
            raise DataError(f"manifest.data.{model[:80]} must have a whole number of images and a name; it was tampered with")
        problems = known.get("problems", ())
        if not isinstance(problems, (list, tuple)) or not all(isinstance(p, dict) and set(p) >= PROBLEM for p in problems):
            raise DataError(f"manifest.data.{model[:80]}.problems must list path, reason and skipped; it was tampered with")
        for problem in problems:
            check(problem["path"], str, "the path of a problem")
            check(problem["reason"], str, "the reason of a problem")


def _twice(values: list[Any]) -> Iterator[Any]:
    seen = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)


def check_counts(counts: dict[str, int]) -> None:
    """Raise `DataError` for more devices, arms or rows of a sweep than any run has; before anything else looks at them."""
    for name, count in counts.items():
        if count > MOST[name]:
            raise DataError(f"manifest.{name} has {count} entries, a run has at most {MOST[name]}; merge fewer runs at once")


def check_plausible(record: RunRecord) -> None:
    """Raise `DataError` naming the first field that no run has."""
    for number, device in enumerate(record.devices):
        for name in ("id", "name", "kind"):
            _name(getattr(device, name), f"manifest.devices[{number}].{name}")
    _name(record.run_id, "manifest.run_id")
    _name(record.created_utc, "manifest.created_utc")
    _name(record.status, "manifest.status")
    for number, arm in enumerate(record.arms):
        _arm(arm, f"manifest.arms[{number}]")
    for number, row in enumerate(record.sweep):
        _sweep(row, f"manifest.sweep[{number}]")
    for device in _twice([device.id for device in record.devices]):
        raise DataError(f"manifest.devices names {device!r} twice; it was tampered with")
    for device, arm in _twice([(arm.device, arm.arm) for arm in record.arms]):
        raise DataError(f"manifest.arms has {arm!r} on {device!r} twice; it was tampered with")
    for device, arm, size in _twice([(row.device, row.arm, row.batch_size) for row in record.sweep]):
        raise DataError(f"manifest.sweep has {arm!r} on {device!r} at batch {size} twice; it was tampered with")
    models = record.plan.get("models", ())
    if not isinstance(models, (list, tuple)) or not all(isinstance(model, str) for model in models):
        raise DataError("manifest.plan.models must be a list of names; it was tampered with")
    _data(record.data)
