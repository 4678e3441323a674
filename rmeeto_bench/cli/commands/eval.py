"""`rmeeto-bench eval`: accuracy without timing, all ratios in one pass over the images."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmeeto_bench.cli import output
from rmeeto_bench.cli.commands.run import begin_or_continue
from rmeeto_bench.cli.images import add_data, add_img_size, add_workers
from rmeeto_bench.cli.result import add_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command: those of `run` that have to do with accuracy."""
    what = parser.add_argument_group("what to evaluate")
    what.add_argument("--model", default="vim_nano", metavar="NAMES", help="with commas (default: the bundled vim_nano)")
    what.add_argument("--together", action="store_true", help="compare the accuracies of all models, image by image")
    what.add_argument("--baseline", metavar="ARM", help="with this arm, as in vim_small/r0 (default: the first model's r = 0)")
    add_img_size(what)
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
    how.add_argument("--batch-size", metavar="N", help="default: 128 on a GPU, 32 on a CPU")
    how.add_argument("--precision", default="auto", metavar="P", help="fp32, fp16, bf16; auto is fp16 on a GPU, fp32 on a CPU")
    how.add_argument("--backend", default="auto", metavar="B", help="kernels: auto (default), triton, mamba_ssm, native, ...")
    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, metavar="DIR", help="folder for predictions, tables and figures (default: runs/ID)")
    out.add_argument("--resume", action="store_true", help="continue the interrupted evaluation in --out")
    add_output(out)
    parser.set_defaults(accuracy_only=True, device="auto", preset="default", inputs="auto", seed=0, schedule="serial")
    parser.set_defaults(arm=None, no_graphs=False, paper_mode=False, energy=False, dry_run=False)
    parser.set_defaults(trace=False, fed=False, what="inference", compile=False)


def main(arguments: argparse.Namespace) -> int:
    """Evaluate, write the files, show the result; 5 if no image could be evaluated, 130 if interrupted."""
    if arguments.images and arguments.images > 0:
        from rmeeto_bench.measure.statistics import wilson

        implied = wilson(round(0.8 * arguments.images), arguments.images)
        output.say(
            f"note: with {arguments.images} images, an accuracy of 80 % has an interval of {implied.low:.1f} to "
            f"{implied.high:.1f} %; differences between ratios are paired and tighter",
            error=True,
        )
    return begin_or_continue(arguments, add_arguments)
