"""The report of a run as one self-contained HTML page: nothing is loaded from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from rmeeto_bench.measure.verdict import LABELS
from rmeeto_bench.records.run import Block, RunRecord
from rmeeto_bench.report.figures.curves import MANY
from rmeeto_bench.report.figures.kinds import energy, speed_accuracy
from rmeeto_bench.report.figures.models import in_plane, is_comparison
from rmeeto_bench.report.figures.tokens import has_sizes, tokens
from rmeeto_bench.report.groups import groups
from rmeeto_bench.report.run.claims import enumerated
from rmeeto_bench.report.run.energy import energy_of_run
from rmeeto_bench.report.run.over_own import speedups_over_own
from rmeeto_bench.report.run.rounds import round_rows
from rmeeto_bench.report.run.summary import story
from rmeeto_bench.report.run.svg_points import add_hit, describe, page_svg
from rmeeto_bench.report.run.tables import FOLDED, caption, plain_rows

PAIR = ("screen", "paper")  # styles of each figure: for wide screens, and for phones
Blocks = Mapping[str, Sequence[Block]]  # device id -> its blocks in the order measured


@cache
def _template() -> Template:
    loader = PackageLoader("rmeeto_bench.report.run", "")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True).get_template(
        "template.html"
    )


def _figure(record: RunRecord, style: str) -> Markup:
    """Speed against accuracy, or either against the ratio, of all devices; its points say what they are."""
    figure, texts = speed_accuracy([record], style), {}
    accuracy = any(arm.top1 and arm.images_per_second for arm in record.arms)
    timed = any(arm.images_per_second for arm in record.arms)
    if is_comparison([record]) and not in_plane([record]) and timed:  # its rows have names
        return page_svg(figure, style, {})
    for i, arm in enumerate(record.arms if len(list(groups(record))) <= MANY else ()):
        over_ratio = arm.speedup if timed else arm.top1
        if accuracy and arm.images_per_second and arm.top1:
            add_hit(figure.axes[0], arm.images_per_second.value, arm.top1.value, f"arm{i}")
        elif not accuracy and over_ratio:
            add_hit(figure.axes[0], arm.reduction_ratio, over_ratio.value, f"arm{i}")
        texts[f"arm{i}"] = describe(arm, record.label(arm.device))
    return page_svg(figure, style, texts)


def _verdicts(record: RunRecord) -> list[dict[str, str]]:
    """Each verdict and label once, with its reason and the arms it stands at."""
    found: dict[tuple[str, str], list[str]] = {}
    for arm in record.arms:
        detail = arm.verdict_detail or ("no objection" if arm.verdict == "VALID" else "")
        found.setdefault((arm.verdict, detail), []).append(f"{record.label(arm.device)}: {arm.arm}")
        for label in arm.labels:
            found.setdefault((label, LABELS.get(label, "")), []).append(f"{record.label(arm.device)}: {arm.arm}")
    whole = len(record.arms)
    return [
        {"code": code, "reason": reason, "arms": "all arms" if len(arms) == whole else enumerated(arms)}
        for (code, reason), arms in found.items()
    ]


def _round_tables(record: RunRecord, blocks: Blocks) -> list[dict[str, Any]]:
    """A table per device and session; the rounds of more than `MANY` devices are in `show --rounds` and the database."""
    tables = []
    for device in record.devices[:MANY]:
        for rows in round_rows(blocks.get(device.id, ())):
            columns = list(dict.fromkeys(name for row in rows for name in row))
            title = f"{record.label(device.id)}, session {rows[0]['session']}: ms per image (place in the round)"
            cells = [[row.get(name, "") for name in columns] for row in rows]
            tables.append({"caption": title, "columns": columns, "rows": cells})
    return tables


def html(record: RunRecord, blocks: Blocks | None = None) -> str:
    """Headline, one figure, a sortable table per device and model, notes, then verdicts, provenance and raw rounds."""
    told, tables, joules = story(record), [], energy_of_run(record, blocks or {})
    own = speedups_over_own(record, blocks or {}) if has_sizes([record]) else None
    for device, model, arms in groups(record):
        columns, rows = plain_rows(arms, every=True)
        title, conclusion = caption(record, device, arms), told.conclusions.get((device, model), "")
        tables.append({"caption": title, "columns": columns, "rows": rows, "conclusion": conclusion})
    return _template().render(
        record=record,
        told=told,
        figures={style: _figure(record, style) for style in PAIR},
        accuracy=any(arm.top1 for arm in record.arms),
        models=is_comparison([record]) and not in_plane([record]),
        timed=any(arm.images_per_second for arm in record.arms) or not any(arm.top1 for arm in record.arms),
        tables=tables,
        folded=len(record.devices) > FOLDED,
        many=MANY,
        tokens={style: page_svg(tokens([record], style, own), f"{style}-tokens", {}) for style in PAIR if own is not None},
        energy={style: page_svg(energy([record], style, joules), f"{style}-energy", {}) for style in PAIR if joules},
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
