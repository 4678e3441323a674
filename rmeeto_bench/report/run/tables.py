"""The table of a run: on a terminal, as a data frame, in Markdown and in LaTeX. Unknown values are a dash."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from math import floor, log10
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rmeeto_bench.records.run import ESTIMATES, Arm, Estimate, RunRecord, SweepRow
from rmeeto_bench.report.fitted import NEVER, FittedColumn, fitted, of_texts
from rmeeto_bench.report.groups import groups
from rmeeto_bench.report.plain import csv_cell, tex
from rmeeto_bench.report.plain import markdown as as_markdown

DASH = "—"
FOLDED = 2  # devices; the tables of more are folded away, on the page and on the terminal
WIDE = 120  # columns of a terminal from which a verdict stands on one line


def to_frame(record: RunRecord) -> pd.DataFrame:
    """One row per arm with every field; an estimate `x` becomes `x`, `x_low`, `x_high`."""
    rows = []
    for arm in record.arms:
        row: dict[str, Any] = {"run": record.run_id, "device_name": record.device(arm.device).name, **asdict(arm)}
        for name in ESTIMATES:
            estimate = getattr(arm, name) or Estimate(float("nan"))
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row |= {f"gflops_{name}": value for name, value in row.pop("gflops").items()}
        for name in ("paper", "paper_mode", "latency_ms", "fed"):
            row |= {f"{name}_{key}": value for key, value in (row.pop(name) or {}).items()}
        row["token_counts"] = " ".join(map(str, arm.token_counts))
        row["labels"] = " ".join(arm.labels)
        rows.append(row)
    return pd.DataFrame(rows)


def to_csv(record: RunRecord) -> str:
    """The data frame as a file for spreadsheets and programs."""
    return str(to_frame(record).map(csv_cell).to_csv(index=False))


def interval(estimate: Estimate | None, digits: int, *, sign: str = "") -> str:
    """`[low, high]`, or nothing where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"[{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"


def rate_text(estimate: Estimate | None) -> str:
    """Images per second with as many digits as make sense."""
    if estimate is None:
        return DASH
    return f"{estimate.value:.0f}" if estimate.value >= 100 else f"{estimate.value:.2f}"


def paper_text(arm: Arm) -> str:
    """The paper's images/s for this GPU, and how far ours is from it."""
    if not arm.paper:
        return DASH
    published = arm.paper["images_per_second"]
    ours = arm.images_per_second
    return f"{published:.0f}" if ours is None else f"{published:.0f} ({100 * (ours.value / published - 1):+.0f} %)"


def paper_mode_text(arm: Arm) -> str:
    """Images/s and speed-up by the paper's protocol on this machine."""
    found = arm.paper_mode
    return DASH if found is None else f"{found['images_per_second']:.0f} ({found['speedup']:.3f}x)"


def fed_text(arm: Arm) -> str:
    """Images/s of the whole pipeline, and the part that bounds it."""
    if arm.fed is None:
        return DASH
    parts = {name: rate for name, rate in arm.fed.items() if name != "images_per_second"}
    return f"{arm.fed['images_per_second']:.4g} ({min(parts, key=lambda name: parts[name])})"


def latency_text(arm: Arm) -> str:
    """Percentiles of single steps at batch 1."""
    found = arm.latency_ms
    return (
        DASH if found is None else "/".join(f"{found[name]:.2f}" if name in found else DASH for name in ("p50", "p90", "p99"))
    )


def gflops_text(arm: Arm) -> str:
    """As the paper counts them; of a model that is not ours as torch counts them, which is another count and says so."""
    if "paper" in arm.gflops:
        return f"{arm.gflops['paper']:.3f}"
    return f"{arm.gflops['counted']:.3f} (counted)" if "counted" in arm.gflops else DASH


def joules_text(joules: Estimate | None) -> str:
    """Two significant digits: power readings carry no more."""
    return DASH if joules is None else f"{joules.value:.{max(0, 1 - floor(log10(joules.value)))}f}"


def _marks(arm: Arm) -> set[str]:
    """The labels that qualify a verdict: codes in capitals, unlike remarks on how the forward ran."""
    return {label for label in arm.labels if label.isupper()}


def _common(arms: list[Arm]) -> set[str]:
    """The labels that all arms of a table bear: they stand in its caption."""
    return set.intersection(*map(_marks, arms)) if arms else set()


def _p_text(p: float | None) -> str:
    return DASH if p is None else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def _cells(arm: Arm, common: Collection[str] = ()) -> dict[str, tuple[str, str]]:
    """Column -> (value, interval) of one row. `common`: labels that need not stand in it."""
    marks = [f"[{label}]" for label in sorted(_marks(arm) - set(common))]
    speed, known = arm.speedup, bool(arm.token_counts)  # nothing is known of the tokens of a model of others
    return {
        "model": (arm.model, ""),
        "ratio": (f"{arm.ratio_requested:.2f}" if known else DASH, ""),
        "r": (str(arm.r) if known else DASH, ""),
        "realised": (f"{arm.reduction_ratio:.4f}" if known else DASH, ""),
        "tokens": (str(arm.final_tokens) if known else DASH, ""),
        "images/s": (rate_text(arm.images_per_second), ""),
        "speed-up": (DASH if speed is None else f"{speed.value:.3f}x", "" if arm.is_baseline else interval(speed, 3)),
        "top-1 %": (DASH if arm.top1 is None else f"{arm.top1.value:.2f}", interval(arm.top1, 2) if speed is None else ""),
        "Δ points": (
            DASH if arm.delta_top1 is None else f"{arm.delta_top1.value:+.2f}",
            interval(arm.delta_top1, 2, sign="+"),
        ),
        "p": (_p_text(arm.top1_p), ""),
        "top-5 %": (DASH if arm.top5 is None else f"{arm.top5.value:.2f}", ""),
        "same %": (DASH if arm.agreement is None else f"{arm.agreement:.1f}", ""),
        "ECE": (DASH if arm.calibration_error is None else f"{arm.calibration_error:.1f}", ""),
        "GFLOPs": (gflops_text(arm), ""),
        "paper images/s": (paper_text(arm), ""),
        "paper's protocol": (paper_mode_text(arm), ""),
        "fed images/s": (fed_text(arm), ""),
        "p50/p90/p99 ms": (latency_text(arm), ""),
        "J/image": (joules_text(arm.joules_per_image), ""),
        "noise": (DASH if arm.noise_speed is None else f"{100 * (arm.noise_speed.value - 1):+.2f} %", ""),
        "weights": (arm.weights, ""),
        "verdict": (" ".join(["" if arm.verdict == "VALID" else arm.verdict, *marks]).strip(), ""),
    }


def _keys(arms: list[Arm]) -> set[str]:
    """The columns that name a row."""
    return {"model", "r"} if arms[0].baseline else {"r"}


def _columns(arms: list[Arm], *, every: bool = False) -> list[str]:
    """The columns that say something for these arms: of what was timed, speed; of what was only evaluated, accuracy in detail.

    every: both, for a page that has the place.
    """
    common = _common(arms)
    rows = [_cells(arm, common) for arm in arms]
    hidden = {"model", "r"} - _keys(arms) | ({"top-1 %", "Δ points"} if arms[0].what == "train" else set())
    if not any(arm.token_counts for arm in arms):
        hidden |= {"ratio", "r", "realised", "tokens"} | (set() if any(arm.top1 for arm in arms) else {"top-1 %", "Δ points"})
    hidden |= set() if any(arm.gflops for arm in arms) else {"GFLOPs"}
    hidden |= {name for name in (*OPTIONAL, *DETAILS) if all(row[name][0] in ("", DASH) for row in rows)}
    evaluated = any(arm.top1 for arm in arms) and not any(arm.images_per_second for arm in arms)
    hidden |= set(SPEED if evaluated else () if every else DETAILS)
    shown = [name for name in rows[0] if name not in hidden]
    return sorted(shown, key=lambda name: every and name in DETAILS)  # last, where a page may cut them off


BESIDE = (
    "paper's protocol",
    "fed images/s",
    "p50/p90/p99 ms",
    "J/image",
    "noise",
)  # in a second table where it is narrow
SPEED = ("images/s", "speed-up", "tokens")  # of no use where nothing was timed
DETAILS = ("p", "top-5 %", "same %", "ECE")  # of accuracy; p is McNemar's after Holm, same % the agreement with r = 0
OPTIONAL = ("paper images/s", *BESIDE, "verdict")
# What a narrow terminal shows first; the rest goes, the last first.
IMPORTANCE = (
    *("model", "r", "speed-up", "images/s", "top-1 %", "Δ points", "verdict", "weights", "realised", "GFLOPs"),
    *("ratio", "p", "top-5 %", "same %", "ECE", "tokens", "paper images/s", *BESIDE),
)


WORDS = ("model", "weights", "verdict")  # columns of words, not numbers


def _column(name: str) -> FittedColumn:
    kept = name in ("model", "r", "speed-up")
    return FittedColumn(name, NEVER if kept else IMPORTANCE.index(name), left=name in WORDS)


def caption(record: RunRecord, device: str, arms: list[Arm]) -> str:
    """Device, model, precision, batch, kernels and data of a table; of several models, the arm that all are compared with."""
    first, models = arms[0], dict.fromkeys(arm.model for arm in arms)
    evaluated = [record.data[model] for model in models if record.data.get(model, {}).get("images")]
    data: dict[str, Any] = evaluated[0] if evaluated else {}
    images = f"{data['images']:,} images of {data['name']}" if data.get("images") else "no accuracy"
    what = f"{len(models)} model{'s' * (len(models) != 1)} over {first.baseline}" if first.baseline else first.model
    if first.what != "inference":
        what += " in training"
        images = "no accuracy, as weights change"
    backends = "" if first.baseline else f"{first.backend} kernels · "
    return f"{record.label(device)} · {what} · {first.precision} · batch {first.batch_size} · {backends}{images}" + "".join(
        f" · {label}" for label in sorted(_common(arms))
    )


def rich_table(record: RunRecord, device: str, width: int = 160) -> list[Table]:
    """One table per model of a device, fitted to `width` columns; a narrow one has what was measured beside it in a second."""
    tables = []
    for _, _, arms in groups(record, device):
        common = _common(arms)
        rows = [_cells(arm, common) for arm in arms]
        if width < WIDE:
            for row in rows:
                row["verdict"] = (row["verdict"][0].replace("_", "\n").replace(" [", "\n["), "")
        columns = [_column(name) for name in _columns(arms)]
        table, left_out = fitted(caption(record, device, arms), columns, rows, width)
        tables.append(table)
        below = [name for name in left_out if name in BESIDE]
        if below:
            tables.append(fitted(None, [_column(name) for name in (*sorted(_keys(arms)), *below)], rows, width)[0])
    return tables


def overview_table(record: RunRecord, width: int) -> list[Table]:
    """Images/s and speed-up of every device at every ratio, one table per model; none for a run on one device, or untimed."""
    tables = []
    for model in dict.fromkeys(arm.model for arm in record.arms if arm.images_per_second) if len(record.devices) > 1 else ():
        mine = [arm for arm in record.arms if arm.model == model]
        rows = []
        for device in record.devices:
            found = {arm.r: arm for arm in mine if arm.device == device.id}
            row = {"device": record.label(device.id)}
            for r, ratio in sorted({arm.r: arm.ratio_requested for arm in mine}.items()):
                arm = found.get(r)
                rate = DASH if arm is None else rate_text(arm.images_per_second)
                up = "" if arm is None or arm.speedup is None else f"{arm.speedup.value:.3f}x"
                row[f"{ratio:.2f}\nr={r}"] = f"{rate}\n{up}"
            rows.append(row)
        tables.append(of_texts(f"{model}: images/s, speed-up", rows, width, left=("device",)))
    return tables


def _sweep_cell(row: SweepRow | None) -> str:
    if row is None:
        return DASH
    return f"{rate_text(row.images_per_second)}{'*' if row.knee else ' '}" if row.images_per_second else row.verdict


def sweep_table(record: RunRecord, device: str, width: int) -> list[Group]:
    """Images/s over the batch size, a column per arm; `*` marks the knee. No table for a run without a sweep."""
    tables = []
    rows = [row for row in record.sweep if row.device == device]
    for model in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == model]
        arms = list(dict.fromkeys(row.arm for row in mine))
        title = f"{record.label(device)} · {model} · images/s by batch size, * the smallest with 98 % of the best"
        shown = []
        for size in dict.fromkeys(row.batch_size for row in mine):
            found = {row.arm: row for row in mine if row.batch_size == size}
            shown.append({"batch": str(size), **{f"r={arm.rsplit('/r', 1)[1]}": _sweep_cell(found.get(arm)) for arm in arms}})
        table = of_texts(None, shown, width)
        tables.append(Group(Text(title, "italic"), table))  # a title of the table's own is cut to its width
    return tables


def plain_rows(arms: list[Arm], *, every: bool = False) -> tuple[list[str], list[list[str]]]:
    """Column names and the rows of text under them, intervals beside their values. every: details of accuracy, too."""
    columns = _columns(arms, every=every)
    rows = []
    for arm in arms:
        cells = _cells(arm, _common(arms))
        rows.append([" ".join(part for part in cells[name] if part) for name in columns])
    return columns, rows


def markdown(record: RunRecord) -> str:
    """All tables as GitHub Markdown, each under its caption."""
    blocks = []
    for device, _, arms in groups(record):
        columns, rows = plain_rows(arms)
        lines = [f"**{as_markdown(caption(record, device, arms))}**", "", "| " + " | ".join(columns) + " |"]
        lines.append("|" + "|".join(" ---: " if name not in WORDS else " --- " for name in columns) + "|")
        lines.extend("| " + " | ".join(map(as_markdown, row)) + " |" for row in rows)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def latex(record: RunRecord) -> str:
    """All tables for `\\input`, in booktabs style; needs only `\\usepackage{booktabs}`."""
    blocks = []
    for device, _, arms in groups(record):
        columns, rows = plain_rows(arms)
        align = "".join("l" if name in WORDS else "r" for name in columns)
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{tex(caption(record, device, arms))}}}"]
        lines += [
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(map(tex, columns)) + r" \\",
            r"\midrule",
        ]
        lines += [" & ".join(f"{{{tex(cell)}}}" for cell in row) + r" \\" for row in rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"
