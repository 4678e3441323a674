"""`rmeeto-bench retrain`: train from scratch, or re-train with merging switched on, at one ratio or at several."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmeeto_bench.cli import output
from rmeeto_bench.cli.interrupt import graceful
from rmeeto_bench.errors import UnavailableError, UsageError
from rmeeto_bench.models.sizes import config
from rmeeto_bench.validate import flag

if TYPE_CHECKING:
    from rmeeto_bench.reduction.config import ReductionConfig
    from rmeeto_bench.retrain.distributed import World
    from rmeeto_bench.retrain.loop import Progress
    from rmeeto_bench.retrain.recipe import Recipe
    from rmeeto_bench.retrain.session import Trained, Training

# Flags that are short for one field of the recipe; every other field is reached by --set.
SHORT = {
    "epochs": ("schedule.epochs", "N"),
    "lr": ("schedule.lr", "LR"),
    "batch_size": ("optimisation.batch_size", "N"),
    "accumulation": ("optimisation.accumulation", "N"),
    "precision": ("optimisation.precision", "P"),
    "teacher": ("teacher.source", "T"),
    "ema": ("ema_decay", "DECAY"),
    "fraction": ("fraction", "F"),
    "seed": ("seed", "N"),
}
HINTS = {
    "batch_size": "images per process and micro-batch",
    "accumulation": "micro-batches per optimizer step",
    "precision": "fp32, bf16 or fp16",
    "teacher": "none, or self for self-distillation",
    "ema": "average the weights with this decay, and ship the average",
    "fraction": "part of the training images; the validation set stays complete",
}
STOPPING = "finishing this step and saving the state; --resume continues from there"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("--model", default="vim_nano", metavar="NAME", help="model to train (default: vim_nano)")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "-r", "--r", metavar="LIST", help="tokens removed per merge, as in 5,11 (default: 0); under torchrun write -r"
    )
    amount.add_argument("--ratios", metavar="LIST", help="reduction ratios instead, as in 0.14,...,0.54")
    parser.add_argument(
        "--preset", "--recipe", dest="preset", default="nano_retrain", metavar="NAME",
        help="paper, upstream_exact, video_paper, nano, nano_low, nano_full, nano_retrain (default)",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder with train/ and val/, or of Fashion-MNIST files (default: Debian's dataset-fashion-mnist); for clips with "
        "train.csv and val.csv, or videos by class in train/ and val/",
    )  # fmt: skip
    parser.add_argument("--class-map", type=Path, metavar="FILE", help="class folders in the order of their numbers")
    parser.add_argument(
        "--init",
        metavar="FILE",
        help="checkpoint to start from: a file, a public name, bundled or none (default: the preset's)",
    )
    recipe = parser.add_argument_group("instead of the preset's own")
    for name, (field, metavar) in SHORT.items():
        recipe.add_argument(flag(name), metavar=metavar, help=HINTS.get(name, field))
    recipe.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="any field, as in augmentation.mixup=0.8; repeatable"
    )
    recipe.add_argument("--show", action="store_true", help="print the recipe and stop")
    parser.add_argument("--prune", action="store_true", help="drop the tokens instead of merging them")
    parser.add_argument("--unordered", action="store_true", help="merge without keeping the token order")
    parser.add_argument(
        "--reduce", action="append", default=[], metavar="FIELD=VALUE",
        help="any other setting of the merging, as in distance=l1 or ablation.shuffle=0.3; repeatable",
    )  # fmt: skip
    parser.add_argument("--backend", default="auto", metavar="B", help="kernels: auto (default), triton, native, ...")
    parser.add_argument(
        "--device", default="auto", metavar="D", help="auto (default), cuda or cpu; under torchrun each process takes its own"
    )
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="processes that decode image files (default: 4)")
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop",
        help="stop at an unreadable image or video (default), or take the next one instead and name it at the end",
    )  # fmt: skip
    parser.add_argument("--half", action="store_true", help="write the weights in fp16, half the size")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--resume", action="store_true", help="continue the interrupted training in --out")
    there.add_argument("--force", action="store_true", help="replace a training of that name in --out, whatever it is")
    parser.add_argument("--save-every", type=int, default=200, metavar="STEPS", help="steps between two states (default: 200)")
    parser.add_argument(
        "--log-every", type=int, default=20, metavar="STEPS", help="steps between two lines of the log (default: 20)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("checkpoints"), metavar="DIR", help="folder for NAME_rR.safetensors and logs"
    )


def _recipe(arguments: argparse.Namespace) -> Recipe:
    from rmeeto_bench.retrain.presets import preset
    from rmeeto_bench.retrain.recipe import changed

    changes: dict[str, Any] = {
        field: getattr(arguments, name) for name, (field, _) in SHORT.items() if getattr(arguments, name) is not None
    }
    return changed(preset(arguments.preset), {**changes, **_fields(arguments.set, "--set", "augmentation.mixup=0.8")})


def _fields(texts: list[str], flag: str, example: str) -> dict[str, str]:
    """Field -> value of repeated FIELD=VALUE."""
    parts = [text.partition("=") for text in texts]
    for text, (_, equals, _) in zip(texts, parts, strict=True):
        if not equals:
            raise UsageError(f"{flag} takes FIELD=VALUE, as in {example}, not {text!r}")
    return {field.strip(): value.strip() for field, _, value in parts}


def _reduction(arguments: argparse.Namespace) -> ReductionConfig:
    """How tokens are reduced; r is each run's own."""
    from rmeeto_bench.reduction.config import ReductionConfig
    from rmeeto_bench.retrain.recipe import changed

    changes = _fields(arguments.reduce, "--reduce", "distance=l1")
    if "r" in changes:
        raise UsageError("the tokens removed per merge are given by -r or --ratios, not by --reduce")
    return changed(ReductionConfig(prune=arguments.prune, ordered=not arguments.unordered), changes)


def _rs(arguments: argparse.Namespace) -> tuple[int, ...]:
    from rmeeto_bench.bench.plan.ratios import parse_ratios, parse_rs

    if arguments.r is not None:
        return parse_rs(arguments.r)
    sized = config(arguments.model)
    ratios = parse_ratios(arguments.ratios or "0")
    return tuple(sized.r_for_ratio(ratio)[0] for ratio in ratios)


def _show(progress: Progress) -> None:
    speed = progress.images_per_second
    left = (progress.steps - progress.step) * progress.seconds / progress.step
    output.say(
        f"  step {progress.step}/{progress.steps}  epoch {progress.epoch:.2f}  loss {progress.loss:.3f}  "
        f"lr {progress.lr:.2e}  {speed:.0f} images/s  data wait {100 * progress.data_wait:.0f} %  {left / 60:.1f} min left",
        error=True,
    )


def _session(arguments: argparse.Namespace, recipe: Recipe) -> Training:
    from rmeeto_bench.retrain.session import Files, Training

    if min(arguments.save_every, arguments.log_every) < 1 or arguments.workers < 0:
        raise UsageError("--save-every and --log-every must be 1 or more, --workers 0 or more")
    return Training(
        model=arguments.model,
        recipe=recipe,
        data=arguments.data,
        init=arguments.init,
        files=Files(
            arguments.out, arguments.half, arguments.resume, arguments.save_every, arguments.log_every, force=arguments.force
        ),
        backend=arguments.backend,
        reduction=_reduction(arguments),
        workers=arguments.workers,
        on_error=arguments.on_error,
        class_map=arguments.class_map,
    )


@contextmanager
def _alone(session: Training, rs: tuple[int, ...], world: World, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold the files of these runs: another process, on any machine that shares the disk, may train only at other r."""
    from rmeeto_bench.bench.run.folder_lock import folder_lock

    def note(text: str) -> None:
        output.say(text, error=True)

    with ExitStack() as held:
        busy: UnavailableError | None = None
        try:
            for r in rs if world.leads else ():
                name = f"{session.stem(r).name}.lock"
                held.enter_context(folder_lock(session.files.out, note, should_stop, name=name))
        except UnavailableError as error:
            busy = error
        if world.any(busy is not None):
            raise busy or UnavailableError("another process trains here; the first process of this training says which")
        yield


def _train(session: Training, rs: tuple[int, ...], world: World) -> int:
    from rmeeto_bench.retrain.session import finished, train_one

    with graceful(STOPPING) as should_stop, _alone(session, rs, world, should_stop):
        there = {r: finished(session, r) for r in rs}  # report what stands in the way before anything is trained
        world.wait()
        for r, result in there.items():
            if result is not None and world.leads:
                _report(result, state="already done")
            if world.any(result is not None):  # the leader's files are what counts
                continue
            if world.leads:
                recipe = f"{session.recipe.schedule.epochs:g} epochs by {session.recipe.name}, which --show prints"
                output.say(f"{session.model} r = {r}, {world.size} x {world.device}: {recipe}", error=True)
            trained = train_one(session, r, world, _show, should_stop)
            if world.leads:
                _report(trained, state="stopped early" if trained.interrupted else "done")
            if trained.interrupted:
                return 130
    return 0


def _report(result: Trained, state: str) -> None:
    if result.top1 is None:
        output.say(f"{result.log}  {state} after {result.minutes:.1f} min, its state is saved; continue with --resume")
    else:
        output.say(f"{result.checkpoint}  {state}  top-1 {result.top1:.2f} % in {result.minutes:.1f} min")
    if result.unreadable:
        output.say(
            f"  training files that could not be read and were skipped: {len(result.unreadable)}, {result.unreadable[0]} the "
            f"first; {result.log} names all",
            error=True,
        )


def main(arguments: argparse.Namespace) -> int:
    """Train at every r asked for, one after the other; each writes its checkpoint and log when it is done."""
    recipe = _recipe(arguments)
    config(arguments.model, **({} if recipe.img_size is None else {"img_size": recipe.img_size}))  # the model can be built
    if arguments.show:
        from rmeeto_bench.retrain.recipe import as_set

        output.say(recipe.name)
        for field, value in as_set(recipe):
            output.say(f"  {field}={value}")
        return 0
    from rmeeto_bench.retrain.distributed import world

    rs, session = _rs(arguments), _session(arguments, recipe)
    with world(arguments.device) as here:
        code = _train(session, rs, here)
        if here.leads:
            from rmeeto_bench.report.training import write_training_report

            write_training_report(arguments.out)
    return code
