"""`rmeeto-bench [run]`: the main job."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli.interrupt import graceful

if TYPE_CHECKING:
    from rmeeto_bench.bench.plan import BenchPlan
    from rmeeto_bench.records import RunRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    what = parser.add_argument_group("what to measure")
    what.add_argument("--gpus", default="all", metavar="WHICH", help="all (default), none (the CPU), indices 0,1 or UUIDs")
    what.add_argument(
        "--model", metavar="NAMES", help="with commas (default: vim_small on GPUs, the bundled vim_nano on a CPU)"
    )
    amount = what.add_mutually_exclusive_group()
    amount.add_argument("--ratios", metavar="LIST", help="reduction ratios (default: 0,0.14,...,0.54, the paper's)")
    amount.add_argument("--r", metavar="LIST", help="tokens removed per merge instead, as in 0,5,11")
    what.add_argument(
        "--checkpoints", metavar="WHERE", help="folder (NAME_rR.safetensors), one file, a public name, bundled, or none"
    )
    what.add_argument(
        "--data", type=Path, metavar="DIR", help="images by class, or Fashion-MNIST files (default: what is bundled)"
    )
    what.add_argument("--images", type=int, metavar="N", help="evaluate on N images, in the class proportions of the whole")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--batch-size", type=int, metavar="N", help="for speed and accuracy alike (default: 128 on a GPU, 32 on a CPU)"
    )
    how.add_argument("--precision", default="auto", metavar="P", help="fp32, fp16, bf16; auto is fp16 on a GPU, fp32 on a CPU")
    how.add_argument(
        "--backend", default="auto", metavar="B", help="kernels: auto (default), triton, mamba_ssm, native, chunked, reference"
    )
    how.add_argument("--no-graphs", action="store_true", help="launch every kernel by itself instead of replaying CUDA graphs")
    preset = how.add_mutually_exclusive_group()
    preset.add_argument("--quick", dest="preset", action="store_const", const="quick", help="a first look in a minute or two")
    preset.add_argument("--rigorous", dest="preset", action="store_const", const="rigorous", help="more rounds, for a paper")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="order of rounds, noise inputs, random weights")
    out = parser.add_argument_group("output")
    out.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for tables, figure, report and raw data (default: runs/ID)"
    )
    out.add_argument(
        "--json", metavar="FILE", help="also write the record of the run; - for standard output instead of the table"
    )
    parser.set_defaults(preset="default")


def plan_from(arguments: argparse.Namespace) -> BenchPlan:
    """The plan that the flags stand for. Raises `UsageError`."""
    import torch

    from rmeeto_bench.bench.plan import TABLE_12_RATIOS, BenchPlan
    from rmeeto_bench.bench.ratios import parse_ratios, parse_rs

    gpu = arguments.gpus != "none" and torch.cuda.is_available()
    return BenchPlan(
        models=tuple((arguments.model or ("vim_small" if gpu else "vim_nano")).split(",")),
        ratios=TABLE_12_RATIOS if arguments.ratios is None else parse_ratios(arguments.ratios),
        rs=None if arguments.r is None else parse_rs(arguments.r),
        gpus=arguments.gpus,
        checkpoints=arguments.checkpoints,
        data=arguments.data,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        backend=arguments.backend,
        graphs=not arguments.no_graphs,
        preset=arguments.preset,
        images=arguments.images,
        seed=arguments.seed,
    )


def _show(record: RunRecord, folder: Path) -> None:
    """The tables and sentences on standard output, and in a CI job's summary."""
    from rmeeto_bench.cli.result import show
    from rmeeto_bench.report.tables import markdown

    show(record, folder)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(markdown(record) + "\n")


def main(arguments: argparse.Namespace) -> int:
    """Measure, write the files, show the result; 5 if nothing could be measured, 130 if interrupted."""
    from rmeeto_bench.bench.runner import new_run_id, run
    from rmeeto_bench.cli.progress import TerminalListener
    from rmeeto_bench.records import to_json, write_atomic
    from rmeeto_bench.report.files import write_all

    plan = plan_from(arguments)
    folder = arguments.out or Path("runs") / new_run_id(plan)
    with graceful("finishing this block; what is measured is kept") as should_stop, TerminalListener() as listener:
        record = run(plan, folder, listener, argv=tuple(sys.argv[1:]), should_stop=should_stop)
    write_all(record, folder)
    if arguments.json == "-":
        sys.stdout.write(to_json(record))
    else:
        if arguments.json:
            write_atomic(Path(arguments.json), to_json(record))
        _show(record, folder)
    if record.status == "interrupted":
        return 130
    return 0 if any(arm.images_per_second for arm in record.arms) else 5
