"""`rmeeto-bench eval`: accuracy without timing, all ratios in one pass over the images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli import output
from rmeeto_bench.cli.images import add_data, add_workers, workers
from rmeeto_bench.cli.interrupt import graceful
from rmeeto_bench.files import write_atomic

if TYPE_CHECKING:
    from rmeeto_bench.bench.evaluate.evaluation import Evaluation
    from rmeeto_bench.records.accuracy import AccuracyRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    what = parser.add_argument_group("what to evaluate")
    what.add_argument("--model", default="vim_nano", metavar="NAMES", help="with commas (default: the bundled vim_nano)")
    amount = what.add_mutually_exclusive_group()
    amount.add_argument("--ratios", metavar="LIST", help="reduction ratios (default: 0,0.14,...,0.54, the paper's)")
    amount.add_argument("--r", metavar="LIST", help="tokens removed per merge instead, as in 0,5,11")
    what.add_argument(
        "--checkpoints", metavar="WHERE", help="folder (NAME_rR.safetensors), a file, a public name, zoo, or bundled (default)"
    )
    what.add_argument("--ema", action="store_true", help="use the averaged weights (EMA, SWA) in the checkpoints")
    data = parser.add_argument_group("images")
    add_data(data)
    data.add_argument(
        "--images", "--subset", dest="images", type=int, metavar="N", help="N images in the class proportions of the whole"
    )
    add_workers(data)
    how = parser.add_argument_group("how")
    how.add_argument("--gpus", default="all", metavar="WHICH", help="all (default; they share the images), none, 0,1 or UUIDs")
    how.add_argument("--batch-size", type=int, metavar="N", help="default: 128 on a GPU, 32 on a CPU")
    how.add_argument("--precision", default="auto", metavar="P", help="fp32, fp16, bf16; auto is fp16 on a GPU, fp32 on a CPU")
    how.add_argument("--backend", default="auto", metavar="B", help="kernels: auto (default), triton, mamba_ssm, native, ...")
    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, metavar="DIR", help="folder for predictions, tables and figure (default: runs/ID)")
    out.add_argument("--resume", action="store_true", help="continue the interrupted evaluation in --out")
    out.add_argument("--json", metavar="FILE", help="also write the record; - for standard output instead of the table")


def evaluation_from(arguments: argparse.Namespace) -> Evaluation:
    """The evaluation that the flags stand for. Raises `UsageError`."""
    readers = workers(arguments)  # before anything that takes long to load

    from rmeeto_bench.bench.evaluate.evaluation import Evaluation
    from rmeeto_bench.bench.plan.plan import TABLE_12_RATIOS, BenchPlan
    from rmeeto_bench.bench.plan.ratios import parse_ratios, parse_rs
    from rmeeto_bench.errors import UsageError

    if arguments.resume and arguments.out is None:
        raise UsageError("--resume needs --out, the folder of the interrupted evaluation")
    plan = BenchPlan(
        models=tuple(arguments.model.split(",")),
        ratios=TABLE_12_RATIOS if arguments.ratios is None else parse_ratios(arguments.ratios),
        rs=None if arguments.r is None else parse_rs(arguments.r),
        gpus=arguments.gpus,
        checkpoints=arguments.checkpoints,
        ema=arguments.ema,
        data=arguments.data,
        labels=arguments.labels,
        class_map=arguments.class_map,
        on_error=arguments.on_error,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        backend=arguments.backend,
        images=arguments.images,
    )
    return Evaluation(
        plan,
        workers=readers,
        resume=arguments.resume,
        argv=tuple(sys.argv[1:]),
    )


def _show(record: AccuracyRecord, folder: Path) -> None:

    from rmeeto_bench.report.accuracy import rich_tables, sentences

    console = output.console()
    for table in rich_tables(record, console.width):
        console.print(table)
    for sentence in sentences(record):
        console.print(sentence, soft_wrap=True)
    console.print(f"files: {folder}", soft_wrap=True)


def main(arguments: argparse.Namespace) -> int:
    """Evaluate, write the files, show the result; 5 if no image could be evaluated, 130 if interrupted."""
    evaluation = evaluation_from(arguments)

    from rmeeto_bench.bench.evaluate.arm_accuracies import implied_interval
    from rmeeto_bench.bench.evaluate.evaluation import evaluate_plan
    from rmeeto_bench.bench.run.runner import new_run_id
    from rmeeto_bench.cli.passing import PassListener
    from rmeeto_bench.measure.devices.device import find_devices
    from rmeeto_bench.records.accuracy import to_json
    from rmeeto_bench.report.accuracy import write_all

    plan = evaluation.plan
    folder = arguments.out or Path("runs") / f"eval-{new_run_id(plan)}"
    devices = find_devices(plan.gpus)
    stopping = "finishing this batch; what is evaluated is kept, --resume with --out goes on from there"
    with graceful(stopping) as should_stop, PassListener() as listener:
        if plan.images is not None:
            implied = implied_interval(plan.images)
            listener.note(
                f"with {plan.images} images, an accuracy of 80 % has an interval of {implied.low:.1f} to {implied.high:.1f} %; "
                "differences between ratios are paired and tighter"
            )
        record = evaluate_plan(evaluation, folder, devices, listener, should_stop)
    write_all(record, folder)
    if arguments.json == "-":
        output.write_json_text(to_json(record), "-")
    else:
        if arguments.json:
            write_atomic(Path(arguments.json), to_json(record))
        _show(record, folder)
    if record.status == "interrupted":
        return 130
    return 0 if record.arms else 5
