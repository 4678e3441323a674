"""The report of a run as one self-contained HTML page."""

from __future__ import annotations

import json
import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from rmeeto_bench.records import RunRecord
from rmeeto_bench.report.figure import render, speed_accuracy
from rmeeto_bench.report.summary import groups, sentences
from rmeeto_bench.report.tables import caption, plain_rows


@cache
def _template() -> Template:
    loader = PackageLoader("rmeeto_bench.report", "")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True).get_template(
        "template.html"
    )


def _svg(record: RunRecord) -> Markup:
    """The figure without its XML preamble and comments: texts are outlines, but matplotlib repeats each in a comment."""
    text = render(speed_accuracy(record), "svg").decode("utf-8")
    return Markup(re.sub(r"<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL))


def html(record: RunRecord) -> str:
    """Headline, figure, a sortable table per device and model, verdicts and provenance; no request leaves the page."""
    tables = []
    for device, _, arms in groups(record):
        columns, rows = plain_rows(arms)
        tables.append({"caption": caption(record, device, arms), "columns": columns, "rows": rows})
    return _template().render(
        record=record,
        sentences=sentences(record),
        figure=_svg(record),
        tables=tables,
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
