"""`rmeeto-bench paper`: the paper's tables and figures, published values beside those of stored runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli import output
from rmeeto_bench.errors import UsageError
from rmeeto_bench.files import write_atomic
from rmeeto_bench.models.sizes import config

if TYPE_CHECKING:
    from rmeeto_bench.report.paper.item import PaperTable
    from rmeeto_bench.report.paper.sources import Sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("items", nargs="*", metavar="ITEM", help="1a, 1b, 2 ... 23, fig1b, fig4 (`--list` names them)")
    parser.add_argument("--all", action="store_true", help="every item")
    parser.add_argument("--list", action="store_true", help="say what each item needs and what is there")
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[], metavar="DIR", help="folders of stored runs to take ours from"
    )
    parser.add_argument(
        "--ablations", type=Path, nargs="+", default=[], metavar="PATH", help="what `ablate --out` wrote: files or folders"
    )
    parser.add_argument(
        "--trainings", type=Path, nargs="+", default=[], metavar="DIR", help="folders with the logs of `retrain`"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write .md, .tex, .csv, .html (figures: .png, .pdf, .svg) here")
    parser.add_argument("--style", choices=("screen", "paper"), default="screen", help="size and font of figures")


def _gflops(model: str, r: int, placement: str) -> float | None:
    """GFLOPs as the paper counts, None for a model that is not built in."""
    from rmeeto_bench.cost.flops import published_gflops
    from rmeeto_bench.reduction.config import ReductionConfig

    try:
        return published_gflops(config(model), ReductionConfig(r=r, placement=placement))
    except UsageError:
        return None


def _sources(arguments: argparse.Namespace) -> Sources:
    """Ours, from the runs, ablations and trainings given; what is left out is listed on standard error."""
    from rmeeto_bench.records.run import load
    from rmeeto_bench.report.paper.read_ablations import load_ablations
    from rmeeto_bench.report.paper.read_trainings import load_trainings
    from rmeeto_bench.report.paper.sources import gather

    runs = [load(folder) for folder in arguments.runs]
    sources = gather(runs, _gflops, load_ablations(arguments.ablations), load_trainings(arguments.trainings))
    for line in sources.left_out:
        output.say(line, error=True)
    return sources


def _list(sources: Sources) -> int:
    """What each item needs, and what there is."""
    from rich.padding import Padding

    from rmeeto_bench.report.paper.figures import ours
    from rmeeto_bench.report.paper.registry import FIGURES, TABLES, fill

    console = output.console()
    blocks = [(name, item.title, item.needs.text, fill(item, sources).state) for name, item in TABLES.items()]
    for name, title in FIGURES.items():
        needs = TABLES["1b" if name == "fig1b" else "12"].needs.text
        blocks.append((name, title, needs, f"published numbers, ours at {ours(name, sources)} points"))
    for name, title, needs, state in blocks:
        console.print(f"{name:6}{title}")
        console.print(Padding(f"needs    {needs}\nat hand  {state}", (0, 0, 0, 6)))
    return 0


def _write(table: PaperTable, folder: Path) -> tuple[str, ...]:
    """The four files of a table; returns their names."""
    from rmeeto_bench.report.paper.render import csv_text, html, latex, markdown

    name = table.item.name
    stem = f"table_{name.rjust(2 + len(name.lstrip('0123456789')), '0')}"
    texts = {"html": html(table), "md": markdown(table), "tex": latex(table), "csv": csv_text(table)}
    for kind, text in texts.items():
        write_atomic(folder / f"{stem}.{kind}", text)
    return tuple(f"{stem}.{kind}" for kind in texts)


def main(arguments: argparse.Namespace) -> int:
    """Show or write the items asked for."""
    from rmeeto_bench.report.figures.style import write_figure
    from rmeeto_bench.report.paper.figures import DRAW, ours
    from rmeeto_bench.report.paper.registry import FIGURES, TABLES, chosen, fill
    from rmeeto_bench.report.paper.render import index, markdown

    if arguments.all and arguments.items:
        raise UsageError("--all and names of items exclude each other; give one of them")
    names = [*TABLES, *FIGURES] if arguments.all else arguments.items
    if not names and not arguments.list:
        raise UsageError("name an item, as in `rmeeto-bench paper 12 fig4`, or say --all or --list")
    if arguments.list and (names or arguments.out):
        raise UsageError("--list only lists; leave out the items and --out")
    items, figures = chosen(names)
    if figures and arguments.out is None:
        raise UsageError(f"{figures[0]} is a figure; say --out DIR for its files, and for those of the tables")
    sources = _sources(arguments)
    if arguments.list:
        return _list(sources)
    entries = []
    for item in items:
        table = fill(item, sources)
        if arguments.out is None:
            output.say(markdown(table))
            continue
        entries.append((item.label, item.title, table.state, _write(table, arguments.out)))
    for name in figures:
        paths = write_figure(DRAW[name](sources, arguments.style), arguments.out / name, arguments.style)
        state = f"published numbers, ours at {ours(name, sources)} points"
        entries.append((f"Figure {name.removeprefix('fig')}", FIGURES[name], state, tuple(path.name for path in paths)))
    for label, title, state, files in entries:
        output.say(f"{label}, {title}: {state} -> {files[0]}")
    if arguments.all and arguments.out is not None:
        write_atomic(arguments.out / "index.html", index(entries))
    return 0
