"""`rmeeto-bench roofline`: the limit of a GPU at each ratio, what bounds it, and the share of it that a run reached."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmeeto_bench.cli import output
from rmeeto_bench.cli.flags import add_amount_arguments, chosen_rs
from rmeeto_bench.cli.images import add_img_size, at_typed_sizes
from rmeeto_bench.cost.attainable import Case, RooflineArm, measured, work_out
from rmeeto_bench.errors import UsageError
from rmeeto_bench.models.sizes import config
from rmeeto_bench.profiles import profile_named
from rmeeto_bench.validate import at_least, flag

if TYPE_CHECKING:
    from rich.table import Table

    from rmeeto_bench.profiles import GpuProfile

EPILOGUE = """limit: kernels as ideal as can be, at the datasheet's rates, one after another. Shares of the tensor peak come in
two conventions: paper-mac counts as the paper does (a multiply-add is one, one scan direction), flop what is really
done (a multiply-add is two, both directions). bound by launch: starting the kernels takes longer than running them; the
limit is without that. tuned: what the usual kernels would reach at usual efficiencies, an estimate."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOGUE
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="a stored run: show what its arms reached")
    parser.add_argument("--gpu", metavar="PROFILE", help="a name of `rmeeto-bench profiles` (for a RUN: if it has no profile)")
    parser.add_argument("--model", metavar="NAMES", help="with commas (default: vim_small); not with a RUN")
    add_img_size(parser)
    add_amount_arguments(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per forward (default: 128); not with a RUN")
    parser.add_argument("--out", type=Path, metavar="DIR", help="draw roofline_GPU_MODEL.{png,pdf,svg} into this folder")
    parser.add_argument("--style", choices=("screen", "paper"), default="screen", help="size and font of the figure")
    parser.add_argument("--json", metavar="FILE", help="write the rows; - for standard output instead of the table")


def _planned(arguments: argparse.Namespace) -> list[Case]:
    from rmeeto_bench.reduction.config import ReductionConfig

    if arguments.gpu is None:
        raise UsageError("say --gpu PROFILE (`rmeeto-bench profiles` lists them), or give the folder of a run")
    batch = 128 if arguments.batch_size is None else arguments.batch_size
    at_least(1, {"--batch-size": batch})
    profile = profile_named(arguments.gpu)
    return [
        Case(profile, profile.display, model, r, batch)
        for model in at_typed_sizes(arguments.model or "vim_small", arguments.img_size)
        for r in chosen_rs(arguments, config(model), ReductionConfig())
    ]


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """Column -> text; a measured arm's shares are its own, without one the limit's."""
    measured = "images_per_second" in row
    shares = row["share_of_peak" if measured else "limit_share_of_peak"]
    cells = {"r": str(row["r"]), "ratio": f"{row['reduction_ratio']:.2f}"}
    if measured:
        cells |= {"images/s": f"{row['images_per_second']:.0f}", "of limit": f"{row['share_of_limit']:.1%}"}
    cells |= {"limit\nimages/s": f"{row['limit_images_per_second']:.0f}"}
    cells |= {f"of peak\n{name}": f"{share:.1%}" for name, share in shares.items()}
    cells |= {"bound by": row["bound"]}
    if not measured:
        cells |= {f"{name}\nimages/s": f"{row[f'{name}_images_per_second']:.0f}" for name in ("overlapped", "tuned")}
    elif row["verdict"] != "VALID":
        cells |= {"verdict": row["verdict"].replace("_", "\n")}
    return cells


def _table(rows: list[dict[str, Any]], width: int) -> Table:
    """The rows of one device and model."""
    from rmeeto_bench.report.fitted import of_texts

    first = rows[0]
    title = f"{first['device']} ({first['gpu']}), {first['model']}, half precision, batch {first['batch_size']}"
    return of_texts(title, [_cells(row) for row in rows], width, left=("bound by", "verdict"))


def main(arguments: argparse.Namespace) -> int:
    """Work out the limits, show them, draw them."""

    from rmeeto_bench.fleet.join.archive import run_at
    from rmeeto_bench.report.figures.roofline import roofline
    from rmeeto_bench.report.figures.style import write_figure

    if arguments.run is not None:
        for name in ("model", "img_size", "ratios", "r", "batch_size"):
            if getattr(arguments, name) is not None:
                raise UsageError(f"{flag(name)} does not go with a RUN, whose arms are shown; leave it out")
        with run_at(arguments.run) as (_, record):
            cases = measured(record, arguments.gpu)
    else:
        cases = _planned(arguments)
    worked = [(case, *work_out(case)) for case in cases]
    quiet = output.write_json([row for _, row, _ in worked], arguments.json)
    groups: dict[tuple[str, GpuProfile, str], list[tuple[dict[str, Any], RooflineArm]]] = {}
    for case, row, arm in worked:
        groups.setdefault((case.device, case.profile, case.model), []).append((row, arm))
    stems = [f"roofline_{profile.name}_{model}" for _, profile, model in groups]
    for index, ((device, profile, model), chosen) in enumerate(groups.items()):
        if not quiet:
            console = output.console()
            console.print(_table([row for row, _ in chosen], console.width))
        if arguments.out is not None:
            again = stems[:index].count(stems[index])  # a second card of the same kind
            title = f"{device}, {model}, batch {chosen[0][0]['batch_size']}"
            figure = roofline(title, profile, [arm for _, arm in chosen], arguments.style)
            for path in write_figure(
                figure, arguments.out / f"{stems[index]}{f'_{again + 1}' if again else ''}", arguments.style
            ):
                output.say(f"wrote {path}", error=True)
    return 0
