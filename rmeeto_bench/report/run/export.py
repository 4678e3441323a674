"""A stored run for other tools: github-action-benchmark, Bencher, CSV and JSON. They draw histories; none is a gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from rmeeto_bench.records.run import Arm, Estimate, RunRecord, to_json
from rmeeto_bench.report.run.tables import to_csv

MEASURES = {"images_per_second": "images/s", "speedup": "x", "top1": "%"}  # field -> unit; of all, larger is better


def _named(record: RunRecord) -> Iterator[tuple[str, Arm]]:
    """A name that stays the same from run to run: the device's and the arm's, not the run's."""
    for arm in record.arms:
        yield f"{record.label(arm.device)}, {arm.arm}, {arm.precision}, batch {arm.batch_size}", arm


def _known(arm: Arm) -> Iterator[tuple[str, Estimate]]:
    for measure in MEASURES:
        estimate = getattr(arm, measure)
        if estimate is not None and not (measure == "speedup" and arm.is_baseline):
            yield measure, estimate


def gab(record: RunRecord) -> str:
    """`customBiggerIsBetter` of github-action-benchmark: a list of name, unit, value, range and extra."""
    entries = []
    for name, arm in _named(record):
        for measure, estimate in _known(arm):
            entry: dict[str, Any] = {"name": f"{name}: {measure}", "unit": MEASURES[measure], "value": estimate.value}
            if estimate.low is not None and estimate.high is not None:
                entry["range"] = f"± {(estimate.high - estimate.low) / 2:.3g}"
            entry["extra"] = f"run {record.run_id}, {arm.verdict}, rmeeto-bench {record.tool_version}"
            entries.append(entry)
    return json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def bmf(record: RunRecord) -> str:
    """Bencher Metric Format: benchmark -> measure -> value with bounds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, arm in _named(record):
        for measure, estimate in _known(arm):
            values = {"value": estimate.value}
            if estimate.low is not None and estimate.high is not None:
                values |= {"lower_value": estimate.low, "upper_value": estimate.high}
            found.setdefault(name, {})[measure.replace("_", "-")] = values
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def csv(record: RunRecord) -> str:
    """One row per arm with every field."""
    return to_csv(record)


FORMATS: dict[str, Callable[[RunRecord], str]] = {"gab": gab, "bmf": bmf, "csv": csv, "json": to_json}
