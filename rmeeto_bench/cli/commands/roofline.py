"""`rmeeto-bench roofline`: the limit of a GPU at each ratio, what bounds it, and the share of it that a run reached."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmeeto_bench.cli.flags import add_amount_arguments, chosen_rs
from rmeeto_bench.errors import MeasurementError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from rmeeto_bench.profiles import GpuProfile
    from rmeeto_bench.records.run import Arm, Estimate, RunRecord
    from rmeeto_bench.report.figures.roofline import RooflineArm

HALF = ("fp16", "bf16")
EPILOGUE = """limit: kernels as ideal as can be, at the datasheet's rates, one after another. Shares of the tensor peak come in
two conventions: paper-mac counts as the paper does (a multiply-add is one, one scan direction), flop what is really
done (a multiply-add is two, both directions). bound by launch: starting the kernels takes longer than running them; the
limit is without that. tuned: what the usual kernels would reach at usual efficiencies, an estimate."""


@dataclass(frozen=True)
class Case:
    """One line to work out: where, what, and what was measured of it."""

    profile: GpuProfile
    device: str
    model: str
    r: int
    batch_size: int
    achieved: Estimate | None = None
    verdict: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOGUE
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="folder of a run: show what its arms reached")
    parser.add_argument("--gpu", metavar="PROFILE", help="a name of `rmeeto-bench profiles` (for a RUN: if it has no profile)")
    parser.add_argument("--model", metavar="NAMES", help="with commas (default: vim_small); not with a RUN")
    add_amount_arguments(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per forward (default: 128); not with a RUN")
    parser.add_argument("--out", type=Path, metavar="DIR", help="draw roofline_GPU_MODEL.{png,pdf,svg} into this folder")
    parser.add_argument("--style", choices=("screen", "paper"), default="screen", help="size and font of the figure")
    parser.add_argument("--json", metavar="FILE", help="write the rows; - for standard output instead of the table")


def _profile(name: str) -> GpuProfile:
    from rmeeto_bench.profiles import load_profiles

    for profile in load_profiles():
        if profile.name == name:
            return profile
    raise UsageError(f"unknown GPU {name!r}; `rmeeto-bench profiles` lists the names")


def _planned(arguments: argparse.Namespace) -> list[Case]:
    from rmeeto_bench.models.zoo import config
    from rmeeto_bench.reduction.config import ReductionConfig

    if arguments.gpu is None:
        raise UsageError("say --gpu PROFILE (`rmeeto-bench profiles` lists them), or give the folder of a run")
    batch = 128 if arguments.batch_size is None else arguments.batch_size
    if batch < 1:
        raise UsageError(f"--batch-size must be at least 1, not {batch}")
    profile = _profile(arguments.gpu)
    return [
        Case(profile, profile.display, model, r, batch)
        for model in (arguments.model or "vim_small").split(",")
        for r in chosen_rs(arguments, config(model), ReductionConfig())
    ]


def _why_not(arm: Arm, profile: GpuProfile | None) -> str:
    """Why an arm of a run has no place on the roofline, or nothing."""
    from rmeeto_bench.cost.traffic import model_operations
    from rmeeto_bench.models.zoo import config
    from rmeeto_bench.reduction.config import ReductionConfig
    from rmeeto_bench.reduction.schedule import token_counts

    if profile is None or not profile.multiprocessors:
        return "no rates are known for this device; describe it in profiles/ or name one with --gpu"
    if arm.images_per_second is None:
        return f"nothing measured ({arm.verdict})"
    if arm.precision not in HALF:
        return f"the limits are those of half precision, this arm ran in {arm.precision}"
    try:
        sized = config(arm.model)
        model_operations(sized, ReductionConfig(r=arm.r), arm.batch_size)
    except UsageError as error:
        return str(error)
    if token_counts(ReductionConfig(r=arm.r), depth=sized.depth, initial_tokens=sized.num_tokens) != arm.token_counts:
        return "the limits are worked out for merging as in the paper, this arm's tokens per block are others"
    return ""


def _measured(record: RunRecord, gpu: str | None) -> list[Case]:
    found, skipped = [], {}
    names = [device.name for device in record.devices]
    for arm in record.arms:
        device = record.device(arm.device)
        name = device.profile or gpu
        profile = None if name is None else _profile(name)
        reason = _why_not(arm, profile)
        if reason or profile is None:
            skipped[f"{device.name}, {arm.arm}"] = reason
        else:
            label = device.name if names.count(device.name) == 1 else f"{device.name} {device.id}"
            found.append(Case(profile, label, arm.model, arm.r, arm.batch_size, arm.images_per_second, arm.verdict))
    for arm_name, reason in skipped.items():
        print(f"left out: {arm_name}: {reason}", file=sys.stderr)
    if not found:
        raise MeasurementError(f"run {record.run_id} has no arm with a known limit; see the reasons above")
    return found


def _work_out(case: Case) -> tuple[dict[str, Any], RooflineArm]:
    """The row of a case, and its place in the figure."""
    from rmeeto_bench.cost.flops import operations, published_gflops
    from rmeeto_bench.cost.roofline import TUNED, limit, share_of_peak
    from rmeeto_bench.cost.traffic import model_operations
    from rmeeto_bench.models.zoo import config
    from rmeeto_bench.reduction.config import ReductionConfig
    from rmeeto_bench.reduction.schedule import reduction_ratio, token_counts
    from rmeeto_bench.report.figures.roofline import RooflineArm

    sized, reduction = config(case.model), ReductionConfig(r=case.r)
    kernels = model_operations(sized, reduction, case.batch_size, "ideal")
    bounds = limit(kernels, case.profile)
    rate = bounds.images_per_second(case.batch_size)
    tuned = limit(model_operations(sized, reduction, case.batch_size, "fused"), case.profile, TUNED)
    ratio = reduction_ratio(
        token_counts(reduction, depth=sized.depth, initial_tokens=sized.num_tokens),
        sized.num_tokens,
    )
    conventions = {"paper-mac": published_gflops(sized, reduction), "flop": operations(sized, reduction)}
    dram = sum(kernel.dram_bytes for kernel in kernels)
    row: dict[str, Any] = {"device": case.device, "gpu": case.profile.name, "model": case.model, "r": case.r}
    row |= {"reduction_ratio": ratio, "batch_size": case.batch_size, "limit_images_per_second": rate, "bound": bounds.bound}
    row |= {"overlapped_images_per_second": case.batch_size / bounds.overlapped}
    row |= {"tuned_images_per_second": tuned.images_per_second(case.batch_size), "gflops": conventions}
    row |= {"dram_megabytes_per_image": dram / case.batch_size / 1e6, "kernels": bounds.launches}
    row |= {"unit_milliseconds": {unit: 1e3 * seconds for unit, seconds in bounds.unit_seconds.items()}}
    row["limit_share_of_peak"] = {name: share_of_peak(rate, value, case.profile) for name, value in conventions.items()}
    if case.achieved is not None:
        reached = case.achieved.value
        row |= {"images_per_second": reached, "share_of_limit": reached / rate, "verdict": case.verdict}
        row["share_of_peak"] = {name: share_of_peak(reached, value, case.profile) for name, value in conventions.items()}
    total = case.batch_size * conventions["flop"] / 1000
    ceilings = {unit: total / bounds.unit_seconds[unit] for unit in ("exp (SFU)", "fp32")}
    intensity = 1e9 * conventions["flop"] * case.batch_size / dram
    return row, RooflineArm(
        ratio, rate, row["tuned_images_per_second"], intensity, conventions["flop"], ceilings, case.achieved
    )


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


def _table(rows: list[dict[str, Any]]) -> Table:
    """The rows of one device and model."""
    from rich.table import Table

    first = rows[0]
    title = f"{first['device']} ({first['gpu']}), {first['model']}, half precision, batch {first['batch_size']}"
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    cells = [_cells(row) for row in rows]
    columns = dict.fromkeys(name for row in cells for name in row)
    for name in columns:
        shown.add_column(name, justify="left" if name in ("bound by", "verdict") else "right", no_wrap=True, vertical="bottom")
    for row in cells:
        shown.add_row(*(row.get(name, "") for name in columns))
    return shown


def main(arguments: argparse.Namespace) -> int:
    """Work out the limits, show them, draw them."""
    from rich.console import Console

    from rmeeto_bench.cli.output import write_json
    from rmeeto_bench.records.run import load
    from rmeeto_bench.report.figures.roofline import roofline
    from rmeeto_bench.report.figures.style import write_figure

    if arguments.run is not None:
        for flag in ("model", "ratios", "r", "batch_size"):
            if getattr(arguments, flag) is not None:
                raise UsageError(f"--{flag.replace('_', '-')} does not go with a RUN, whose arms are shown; leave it out")
        cases = _measured(load(arguments.run), arguments.gpu)
    else:
        cases = _planned(arguments)
    worked = [(case, *_work_out(case)) for case in cases]
    quiet = write_json([row for _, row, _ in worked], arguments.json)
    groups: dict[tuple[str, GpuProfile, str], list[tuple[dict[str, Any], RooflineArm]]] = {}
    for case, row, arm in worked:
        groups.setdefault((case.device, case.profile, case.model), []).append((row, arm))
    stems = [f"roofline_{profile.name}_{model}" for _, profile, model in groups]
    for index, ((device, profile, model), chosen) in enumerate(groups.items()):
        if not quiet:
            Console(highlight=False).print(_table([row for row, _ in chosen]))
        if arguments.out is not None:
            again = stems[:index].count(stems[index])  # a second card of the same kind
            title = f"{device}, {model}, batch {chosen[0][0]['batch_size']}"
            figure = roofline(title, profile, [arm for _, arm in chosen], arguments.style)
            for path in write_figure(
                figure, arguments.out / f"{stems[index]}{f'_{again + 1}' if again else ''}", arguments.style
            ):
                print(f"wrote {path}", file=sys.stderr)
    return 0
