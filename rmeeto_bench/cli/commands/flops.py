"""`rmeeto-bench flops`: operations per image at each ratio, under every convention that is in use."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rmeeto_bench.cli import output
from rmeeto_bench.cli.flags import add_amount_arguments, chosen_rs
from rmeeto_bench.cli.images import add_img_size, at_typed_sizes
from rmeeto_bench.errors import UsageError
from rmeeto_bench.models.sizes import TIMM, config, uncompiled
from rmeeto_bench.reduction.config import PRESETS

if TYPE_CHECKING:
    from rich.table import Table

CONVENTIONS = ("hook", "analytic", "bidirectional")  # those of models.flops, which would load torch for --help
EPILOGUE = """conventions: hook counts what a forward hook sees, the real tokens in one of the two scan directions; analytic is
upstream's formula, with r never clamped; bidirectional is hook with both directions. Each is printed with the matching
and without it. paper is the paper's mixture: hook, without the matching at r = 0 and with it above. 10^9 arithmetic
operations (a multiply-add is two, both directions) are in the column operations. Of a model of timm torch counts the
matrix products, convolutions and attention, as analytic does of a DeiT."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOGUE
    parser.add_argument(
        "--model",
        default="vim_tiny,vim_small,vim_base",
        metavar="NAMES",
        help="with commas (default: the Vims); timm:NAME is any of timm's",
    )
    add_img_size(parser)
    add_amount_arguments(parser)
    parser.add_argument("--convention", choices=(*CONVENTIONS, "all"), default="all", help="which one to print (default: all)")
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="paper",
        help="upstream_exact: the last merge leaves 76 tokens whatever r is, as in the released code (default: paper)",
    )
    parser.add_argument("--placement", choices=("even", "odd"), default="even", help="blocks that merge (default: even)")
    parser.add_argument("--json", metavar="FILE", help="write the rows; - for standard output instead of the table")


def rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per model and r: GFLOPs under each convention chosen. Raises `UsageError`."""
    from rmeeto_bench.cost.flops import gflops_by_convention, operations
    from rmeeto_bench.reduction.schedule import reduction_ratio

    base = PRESETS[arguments.preset](0, placement=arguments.placement)
    wanted = CONVENTIONS if arguments.convention == "all" else (arguments.convention,)
    found = []
    for model in at_typed_sizes(arguments.model, arguments.img_size):
        if uncompiled(model).startswith(TIMM):
            found.append(_of_timm(uncompiled(model)))
            continue
        sized = config(model)
        for r in chosen_rs(arguments, sized, base):
            reduction = replace(base, r=r)
            counts = sized.token_counts(reduction)
            values = gflops_by_convention(sized, reduction)
            shown = {name: value for name, value in values.items() if name == "paper" or name.startswith(wanted)}
            row = {"model": model, "r": r, "reduction_ratio": reduction_ratio(counts, sized.num_tokens)}
            row |= {"final_tokens": counts[-1], "preset": arguments.preset, "placement": arguments.placement}
            found.append(row | {"gflops": shown, "giga_operations": operations(sized, reduction)})
    return found


def _of_timm(model: str) -> dict[str, Any]:
    """The row of a model of timm, whose operations torch counts. Raises `UsageError`."""
    import torch

    from rmeeto_bench.cost.counted import counted_gflops
    from rmeeto_bench.models import timm_arms

    name = model.removeprefix(TIMM)
    sized = timm_arms.sizes(timm_arms.settings(name))
    with torch.device("meta"):
        count = counted_gflops(timm_arms.make(name, None).eval(), sized.input_shape)
    if count is None:
        raise UsageError(f"torch cannot count the operations of {model}")
    return {"model": model, "gflops": {"counted": count}, "giga_operations": 2 * count}


HEADINGS = {"counted": "multiply-\nadds", "paper": "paper", "operations": "opera-\ntions"} | {
    key: f"{heading}\n{part}"
    for name, heading in (("hook", "hook"), ("analytic", "analytic"), ("bidirectional", "bidirec-\ntional"))
    for key, part in ((name, "with"), (f"{name}_without_matching", "without"))
}


def table(found: list[dict[str, Any]], width: int = 80) -> Table:
    """The rows of one model, or of all of timm's, three decimals as in the paper's appendix."""
    from rmeeto_bench.report.fitted import of_texts

    first = found[0]
    title, rows = "GFLOPs of an image as torch counts them", []
    if "preset" in first:
        title = f"{first['model']}, preset {first['preset']}, {first['placement']} blocks: GFLOPs with and without matching"
    for row in found:
        counted = {HEADINGS[name]: f"{value:.3f}" for name, value in row["gflops"].items()}
        start = {"model": row["model"]}
        if "preset" in row:
            start = {"r": str(row["r"]), "ratio": f"{row['reduction_ratio']:.4f}", "tokens": str(row["final_tokens"])}
        rows.append({**start, **counted, HEADINGS["operations"]: f"{row['giga_operations']:.3f}"})
    return of_texts(title, rows, width, left=("model",))


def main(arguments: argparse.Namespace) -> int:
    """Count and print."""

    found = rows(arguments)
    if not output.write_json(found, arguments.json):
        console = output.console()
        tables: dict[str, list[dict[str, Any]]] = {}
        for row in found:
            tables.setdefault(row["model"] if "preset" in row else TIMM, []).append(row)
        for chosen in tables.values():
            console.print(table(chosen, console.width))
    return 0
