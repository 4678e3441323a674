"""The report of a run as one self-contained HTML page: nothing is loaded from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from rmeeto_bench.measure.verdict import LABELS
from rmeeto_bench.records.run import Block, RunRecord
from rmeeto_bench.report.figures.kinds import MANY, energy, speed_accuracy, speedup
from rmeeto_bench.report.groups import groups
from rmeeto_bench.report.run.energy import energy_of_run
from rmeeto_bench.report.run.summary import sentences
from rmeeto_bench.report.run.svg_points import add_hit, describe, page_svg
from rmeeto_bench.report.run.tables import caption, plain_rows

Blocks = Mapping[str, Sequence[Block]]  # device id -> its blocks in the order measured


@cache
def _template() -> Template:
    loader = PackageLoader("rmeeto_bench.report.run", "")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True).get_template(
        "template.html"
    )


def _figures(record: RunRecord, blocks: Blocks) -> list[tuple[str, Markup]]:
    """(caption, SVG) of the figures that this run can fill: speed against accuracy for each device, the speed-ups, and
    energy where it was counted."""
    texts = {f"arm{i}": describe(arm, record.device(arm.device).name) for i, arm in enumerate(record.arms)}
    found = []
    many = len(record.devices) > MANY
    if many:
        found.append((f"All {len(record.devices)} devices", page_svg(speed_accuracy([record]), "speed", texts)))
    for number, device in enumerate(() if many else record.devices):
        here = [(i, arm) for i, arm in enumerate(record.arms) if arm.device == device.id and arm.images_per_second]
        accuracy = any(arm.top1 for _, arm in here)
        if here:
            figure = speed_accuracy([replace(record, arms=tuple(arm for _, arm in here))])
            for i, arm in here:
                if arm.images_per_second and (arm.top1 or not accuracy):
                    rate = arm.images_per_second.value
                    place = (rate, arm.top1.value) if arm.top1 else (arm.reduction_ratio, rate)
                    add_hit(figure.axes[0], *place, f"arm{i}")
            what = "images/s against top-1" if accuracy else "images/s over the reduction ratio"
            found.append((f"{device.name}: {what}; bars are 95 % intervals", page_svg(figure, f"speed{number}", texts)))
    if any(arm.r and arm.speedup for arm in record.arms):
        figure = speedup([record], "screen")
        for i, arm in enumerate(() if many else record.arms):
            if arm.speedup is not None:
                add_hit(figure.axes[0], arm.reduction_ratio, arm.speedup.value, f"arm{i}")
        found.append(("Speed-up over no merging, and what the tokens alone would allow", page_svg(figure, "ratio", texts)))
    if any(arm.top1 for arm in record.arms) and not any(arm.images_per_second for arm in record.arms):
        found.append(
            ("Top-1 over the reduction ratio; bars are 95 % intervals", page_svg(speed_accuracy([record]), "top1", texts))
        )
    joules = energy_of_run(record, blocks)
    if joules:
        figure = energy([record], "screen", joules)
        for i, arm in enumerate(record.arms):
            value = joules.get((record.run_id, arm.device, arm.arm))
            if value is not None:
                add_hit(figure.axes[0], arm.reduction_ratio, value.value, f"arm{i}")
        found.append(("Energy by the device's counter", page_svg(figure, "energy", texts)))
    return found


def _verdicts(record: RunRecord) -> list[dict[str, str]]:
    """Each verdict and label once, with its reason and the arms it stands at."""
    found: dict[tuple[str, str], list[str]] = {}
    for arm in record.arms:
        detail = arm.verdict_detail or ("no objection" if arm.verdict == "VALID" else "")
        found.setdefault((arm.verdict, detail), []).append(f"{record.device(arm.device).name}: {arm.arm}")
        for label in arm.labels:
            found.setdefault((label, LABELS.get(label, "")), []).append(f"{record.device(arm.device).name}: {arm.arm}")
    every = {len(record.arms): "all arms"}
    return [
        {"code": code, "reason": reason, "arms": every.get(len(arms), ", ".join(arms))}
        for (code, reason), arms in found.items()
    ]


def _round_tables(record: RunRecord, blocks: Blocks) -> list[dict[str, Any]]:
    """A table per device and session: a row per round with each arm's ms per image, and why a round was dropped."""
    tables = []
    for device in record.devices[:MANY]:  # the rounds of more are in `show --rounds` and the database
        known = blocks.get(device.id, ())
        for session in dict.fromkeys(block.session for block in known):
            here = [block for block in known if block.session == session]
            arms = sorted({block.arm for block in here}, key=lambda name: (len(name), name))
            rounds: dict[int, dict[str, Block]] = {}
            for block in here:
                rounds.setdefault(block.round, {})[block.arm] = block
            rows = []
            for number, by_arm in rounds.items():
                times = [f"{1000 * by_arm[a].seconds / by_arm[a].images:.4f}" if a in by_arm else "" for a in arms]
                dropped = next((block.rejected_reason for block in by_arm.values() if block.rejected_reason), "")
                rows.append([str(number), *times, dropped or ("" if len(by_arm) == len(arms) else "cut short")])
            title = f"{device.name}, session {session}: ms per image"
            tables.append({"caption": title, "columns": ["round", *arms, "dropped"], "rows": rows})
    return tables


def html(record: RunRecord, blocks: Blocks | None = None) -> str:
    """Summary, figures, a sortable table per device and model, verdicts with reasons, raw rounds and provenance."""
    tables = []
    for device, _, arms in groups(record):
        columns, rows = plain_rows(arms, every=True)
        tables.append({"caption": caption(record, device, arms), "columns": columns, "rows": rows})
    return _template().render(
        record=record,
        sentences=sentences(record),
        figures=_figures(record, blocks or {}),
        tables=tables,
        verdicts=_verdicts(record),
        rounds=_round_tables(record, blocks or {}),
        details={
            "command": "rmeeto-bench " + " ".join(record.argv),
            "plan": json.dumps(record.plan, indent=1, ensure_ascii=False),
            "environment": json.dumps(record.environment, indent=1, ensure_ascii=False),
            "devices": json.dumps([{"id": d.id, "name": d.name, **d.details} for d in record.devices], indent=1),
            "weights": "\n".join(
                f"{arm.arm}: {arm.checkpoint or 'random'} {arm.checkpoint_sha256 or ''}" for arm in record.arms
            ),
        },
    )
