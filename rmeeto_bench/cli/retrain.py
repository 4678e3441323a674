"""`rmeeto-bench retrain`: train from scratch, or re-train with merging switched on, at one ratio or at several."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli.interrupt import graceful

if TYPE_CHECKING:
    from rmeeto_bench.retrain.loop import Progress
    from rmeeto_bench.retrain.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("--model", default="vim_nano", metavar="NAME", help="model to train (default: vim_nano)")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--r", metavar="LIST", help="tokens removed per merge, as in 5,11 (default: 0, no merging)")
    amount.add_argument("--ratios", metavar="LIST", help="reduction ratios instead, as in 0.14,...,0.54")
    parser.add_argument("--recipe", default="nano_retrain", metavar="NAME", help="nano_low, nano_full, nano_retrain (default)")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="Fashion-MNIST folder (default: Debian's dataset-fashion-mnist)"
    )
    parser.add_argument("--init", metavar="FILE", help="checkpoint to start from (default: random weights)")
    parser.add_argument("--epochs", type=float, metavar="N", help="instead of the recipe's")
    parser.add_argument("--lr", type=float, metavar="LR", help="instead of the recipe's")
    parser.add_argument("--batch-size", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--teacher", choices=("none", "self"), help="self-distillation, instead of the recipe's choice")
    parser.add_argument("--seed", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--prune", action="store_true", help="drop the tokens instead of merging them")
    parser.add_argument("--unordered", action="store_true", help="merge without keeping the token order")
    parser.add_argument("--half", action="store_true", help="write the weights in fp16, half the size")
    parser.add_argument("--backend", default="auto", metavar="B", help="kernels: auto (default), triton, native, ...")
    parser.add_argument(
        "--out", type=Path, default=Path("checkpoints"), metavar="DIR", help="folder for NAME_rR.safetensors and logs"
    )


def _recipe(arguments: argparse.Namespace) -> Recipe:
    from rmeeto_bench.retrain.recipe import recipe

    given = {name: getattr(arguments, name) for name in ("epochs", "lr", "batch_size", "teacher", "seed")}
    return replace(recipe(arguments.recipe), **{name: value for name, value in given.items() if value is not None})


def _rs(arguments: argparse.Namespace) -> tuple[int, ...]:
    from rmeeto_bench.bench.ratios import parse_ratios, parse_rs
    from rmeeto_bench.models.zoo import config

    if arguments.r is not None:
        return parse_rs(arguments.r)
    sized = config(arguments.model)
    ratios = parse_ratios(arguments.ratios or "0")
    return tuple(sized.r_for_ratio(ratio)[0] for ratio in ratios)


def _show(progress: Progress) -> None:
    left = (progress.steps - progress.step) * progress.seconds / progress.step
    print(
        f"  step {progress.step}/{progress.steps}  epoch {progress.epoch:.2f}  loss {progress.loss:.3f}  "
        f"lr {progress.lr:.2e}  {progress.images_per_second:.0f} images/s  {left / 60:.1f} min left",
        file=sys.stderr,
    )


def main(arguments: argparse.Namespace) -> int:
    """Train at every r asked for, one after the other; each writes its checkpoint and log when it is done."""
    from rmeeto_bench.reduction.config import ReductionConfig
    from rmeeto_bench.retrain.session import Session, train_one

    chosen = _recipe(arguments)
    session = Session(
        model=arguments.model,
        recipe=chosen,
        data=arguments.data,
        init=arguments.init,
        backend=arguments.backend,
        out=arguments.out,
        reduction=ReductionConfig(prune=arguments.prune, ordered=not arguments.unordered),
        half=arguments.half,
    )
    with graceful("finishing this step; what is trained so far is saved") as should_stop:
        for r in _rs(arguments):
            print(f"{arguments.model} r = {r}: {chosen}", file=sys.stderr)
            result = train_one(session, r, _show, should_stop)
            state = "stopped early" if result.interrupted else "done"
            print(f"{result.checkpoint}  {state}  top-1 {result.top1:.2f} % in {result.minutes:.1f} min")
            if result.interrupted:
                return 130
    return 0
