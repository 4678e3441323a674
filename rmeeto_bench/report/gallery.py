"""All runs of a folder by device, as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from rmeeto_bench.records.run import Arm, Estimate, RunRecord
from rmeeto_bench.report.groups import groups
from rmeeto_bench.report.plain import markdown

HEAD = """# Which GPUs have been measured, and how fast are they?

One row for each model of each run, the newest first: images/s without merging, and the speed-up and top-1 at the largest
reduction ratio that was measured. The speed-up is over the model's own r = 0, or over the arm that is named.
`rmeeto-bench show` shows a whole run, packed or not.
[How to add yours](../docs/contribute-a-gpu.md)
"""
COLUMNS = ("model", "settings", "images/s", "ratio", "speed-up", "top-1 %", "verdict", "when", "run")


def _text(found: Estimate | None, digits: int, unit: str = "") -> str:
    if found is None:
        return "—"
    ends = "" if found.low is None or found.high is None else f" [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return f"{found.value:.{digits}f}{unit}{ends}"


def _row(place: str, record: RunRecord, arms: list[Arm]) -> dict[str, str]:
    first, last = arms[0], arms[-1]
    top1 = dict.fromkeys("—" if arm.top1 is None else f"{arm.top1.value:.2f}" for arm in (first, last))
    verdicts = sorted({arm.verdict for arm in arms})
    kind = "training, " if first.what == "train" else ""
    return {
        "model": markdown(first.model),
        "settings": markdown(f"{kind}{first.precision}, batch {first.batch_size}, {first.backend}"),
        "images/s": "—" if first.images_per_second is None else f"{first.images_per_second.value:.4g}",
        "ratio": f"{last.reduction_ratio:.2f}" if last.token_counts else "—",
        "speed-up": _text(last.speedup, 3, "x") + (f" over {markdown(last.baseline)}" if last.baseline else ""),
        "top-1 %": " to ".join(top1),
        "verdict": markdown(", ".join(verdicts)),
        "when": record.created_utc.partition("T")[0],
        "run": f"[{markdown(record.tool_version.partition('+')[0])}]({place})",
    }


def gallery(runs: Mapping[str, RunRecord]) -> str:
    """The page. `runs`: address of each, from the page, and its record."""
    rows: dict[str, list[dict[str, str]]] = {}
    seen: set[str] = set()  # a run may lie there packed, too
    for place, record in sorted(runs.items(), key=lambda run: (run[1].created_utc, run[0]), reverse=True):
        if record.run_id in seen:
            continue
        seen.add(record.run_id)
        for device, _, arms in groups(record):
            for model in dict.fromkeys(arm.model for arm in arms if arm.known):
                known = [arm for arm in arms if arm.known and arm.model == model]
                rows.setdefault(record.device(device).name, []).append(_row(place, record, known))
    lines = [HEAD]
    for name, found in sorted(rows.items()):
        lines += [f"## {markdown(name)}\n", f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
        lines += [f"| {' | '.join(row[column] for column in COLUMNS)} |" for row in found]
        lines.append("")
    return "\n".join(lines) if rows else f"{HEAD}\nNothing yet.\n"
