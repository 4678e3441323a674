"""What training logs say: the curves as a picture, and minutes per run beside the paper's (Tables 3 and 9)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmeeto_bench.errors import DataError
from rmeeto_bench.files import new_file, write_atomic
from rmeeto_bench.published import PAPER_NAMES, rows
from rmeeto_bench.report.plain import markdown as as_markdown


@dataclass(frozen=True)
class TrainingLog:
    """One `retrain` log."""

    name: str  # of its file
    head: dict[str, Any]  # settings of the training
    lines: tuple[dict[str, Any], ...]  # progress, one entry a line
    tail: dict[str, Any]  # how it ended: top1 in percent, seconds; empty: it did not

    @property
    def epochs(self) -> float:
        """Epochs trained."""
        return float(self.lines[-1]["epoch"]) if self.lines else 0.0

    @property
    def images_per_second(self) -> float:
        """Over the whole run: images of all steps over its seconds."""
        if not self.lines:
            return 0.0
        spent = sum(line["images_per_second"] * seconds for line, seconds in zip(self.lines, self._spans(), strict=True))
        return spent / max(1e-9, self.lines[-1]["seconds"])

    def _spans(self) -> list[float]:
        ends = [line["seconds"] for line in self.lines]
        return [end - start for start, end in zip([0.0, *ends], ends, strict=False)]


def read_log(path: Path) -> TrainingLog:
    """Read one log. Raises `DataError` for a file that is none."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        head, tail = lines[0], lines[-1]
        return TrainingLog(path.stem, {**head, "recipe": head["recipe"]}, tuple(lines[1:-1]), {**tail, "top1": tail["top1"]})
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no training log ({error!r}); give the folder that retrain wrote") from error


def read_logs(folder: Path) -> list[TrainingLog]:
    """All logs of a folder, by r."""
    found = [read_log(path) for path in folder.glob("*.jsonl")]
    return sorted(found, key=lambda log: (log.head["model"], _r(log), log.name))


def _r(log: TrainingLog) -> int:
    return int(log.head.get("reduction", log.head).get("r", 0))


def _top1(log: TrainingLog) -> str:
    """Of a run that was interrupted there is none."""
    return "-" if log.tail["top1"] is None else f"{log.tail['top1']:.2f}"


def minutes_table(logs: list[TrainingLog]) -> str:
    """Markdown: one line per run, then the paper's wall-clock values for the same models."""
    text = [
        "| run | r | device | processes | epochs | minutes | images/s | top-1 % |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for log in logs:
        head, tail = log.head, log.tail
        device = as_markdown(str(head.get("device", "cpu")))
        text.append(
            f"| {as_markdown(log.name)} | {_r(log)} | {device} | {head.get('processes', 1)} | {log.epochs:.2f} | "
            f"{tail['seconds'] / 60:.1f} | {log.images_per_second:.0f} | {_top1(log)} |"
        )
    models = {PAPER_NAMES[log.head["model"]] for log in logs if log.head["model"] in PAPER_NAMES}
    published = [row for row in rows() if row.table in ("3", "9") and row.metric == "wall_time" and row.model in models]
    if published:
        text += ["", "| paper | table | setting | minutes |", "| --- | --- | --- | ---: |"]
        for row in published:
            setting = row.setting_value if row.table == "3" else f"{row.setting_value} epochs"
            text.append(f"| {row.model} | {row.table} | {setting} | {row.value:g} |")
    return "\n".join(text) + "\n"


def draw_curves(logs: list[TrainingLog], path: Path) -> None:
    """Loss against epochs, one line per run, written as a picture in the format of the path's ending."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from rmeeto_bench.report.figures.style import drawing

    with drawing("screen"):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for index, log in enumerate(logs):
            epochs = [line["epoch"] for line in log.lines]
            label = f"{log.name}: {_top1(log)} %"
            axes.plot(epochs, [line["loss"] for line in log.lines], color=f"C{index % 10}", lw=1, label=label)
        axes.set(xlabel="epochs", ylabel="training loss")
        axes.grid(alpha=0.3)
        if logs:
            axes.legend(title="run: top-1", fontsize="small")
        with new_file(path) as temporary:
            figure.savefig(temporary, dpi=150)


def write_training_report(folder: Path) -> None:
    """`curves.png` and `minutes.md` of all logs in a folder."""
    logs = read_logs(folder)
    if logs:
        draw_curves(logs, folder / "curves.png")
        write_atomic(folder / "minutes.md", minutes_table(logs))
