"""`rmeeto-bench [run]`: the main job."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli import output
from rmeeto_bench.cli.images import add_data, add_img_size, add_workers, at_typed_sizes, workers
from rmeeto_bench.cli.result import add_output, carry_out

if TYPE_CHECKING:
    from rmeeto_bench.bench.plan.plan import BenchPlan


def _add_what(what: argparse._ArgumentGroup) -> None:
    what.add_argument(
        "--gpus", default="all", metavar="WHICH", help="all (default), none (the CPU), indices 0,1, UUIDs, or names: 4090"
    )
    what.add_argument(
        "--device", choices=("auto", "sim"), default="auto", help="sim: no GPU, but a simulator that shows the whole flow"
    )
    what.add_argument(
        "--model",
        metavar="NAMES",
        help="with commas; timm:NAME is any of timm's, compile:NAME through torch.compile (default: vim_small on "
        "GPUs, the bundled vim_nano on a CPU)",
    )
    what.add_argument(
        "--together", action="store_true", help="measure all models in the same rounds, and compare every arm with one of them"
    )
    what.add_argument(
        "--compile",
        action="store_true",
        help="measure each model also through torch.compile, as compile:NAME; implies --together",
    )
    what.add_argument(
        "--arm",
        action="append",
        metavar="NAME=MODULE:FUNCTION",
        help="your function, which returns a module or a callable for a batch; repeatable, implies --together",
    )
    what.add_argument(
        "--baseline", metavar="ARM", help="the arm to compare with, as in vim_small/r0 (default: the first model's r = 0)"
    )
    add_img_size(what)
    amount = what.add_mutually_exclusive_group()
    amount.add_argument("--ratios", metavar="LIST", help="reduction ratios (default: 0,0.14,...,0.54, the paper's)")
    amount.add_argument("--r", metavar="LIST", help="tokens removed per merge instead, as in 0,5,11")
    what.add_argument(
        "--checkpoints",
        metavar="WHERE",
        help="folder (NAME_rR.safetensors), one file, a public name, zoo (the public files), bundled, or none",
    )
    what.add_argument("--ema", action="store_true", help="use the averaged weights (EMA, SWA) in the checkpoints")
    what.add_argument(
        "--inputs",
        default="auto",
        metavar="KIND",
        help="time on real images, random noise, or both, compared round by round (default: auto, real where there are any)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    _add_what(parser.add_argument_group("what to measure"))
    images = parser.add_argument_group("images")
    add_data(images)
    images.add_argument("--images", type=int, metavar="N", help="evaluate on N images, in the class proportions of the whole")
    add_workers(images)
    how = parser.add_argument_group("how")
    how.add_argument(
        "--batch-size",
        metavar="N",
        help="images per forward, for speed and accuracy (default: 128 on a GPU, 32 on a CPU); 1 also measures latencies; "
        "sweep also times 1 to 512 and marks the smallest that is as fast as any",
    )
    how.add_argument("--precision", default="auto", metavar="P", help="fp32, fp16, bf16; auto is fp16 on a GPU, fp32 on a CPU")
    how.add_argument(
        "--backend",
        default="auto",
        metavar="B",
        help="auto (default), triton, mamba_ssm, native, chunked, stepwise, reference",
    )
    how.add_argument("--no-graphs", action="store_true", help="launch every kernel by itself instead of replaying CUDA graphs")
    preset = how.add_mutually_exclusive_group()
    preset.add_argument(
        "--quick", dest="preset", action="store_const", const="quick", help="a first look in a minute or two, in one process"
    )
    preset.add_argument("--rigorous", dest="preset", action="store_const", const="rigorous", help="more rounds, for a paper")
    preset.add_argument(
        "--sustained",
        dest="preset",
        action="store_const",
        const="sustained",
        help="ten minutes of every arm in one process, for steady heat",
    )
    how.add_argument(
        "--paper-mode", action="store_true", help="also repeat the paper's protocol (baseline first, 100 + 30 forwards)"
    )
    how.add_argument("--what", default="inference", metavar="STEP", help="inference (default), or train: whole training steps")
    how.add_argument("--fed", action="store_true", help="also time the whole pipeline: reading, decoding, transfer and forward")
    how.add_argument("--trace", action="store_true", help="also profile a step of every arm; the files are in OUT/trace")
    how.add_argument(
        "--energy", action="store_true", help="also measure joules per image, every arm alone for 3 x 30 s (GPUs only)"
    )
    how.add_argument("--accuracy-only", action="store_true", help="time nothing, as eval; all devices share the images")
    how.add_argument(
        "--schedule",
        default="serial",
        metavar="HOW",
        help="measure GPUs one after the other (serial), or together if a test shows that this changes nothing (parallel)",
    )
    how.add_argument("--dry-run", action="store_true", help="print what would be done and how long it would take")
    how.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the order of rounds, of noise inputs and of random weights (default: 0)",
    )
    out = parser.add_argument_group("output")
    out.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for tables, figure, report and raw data (default: runs/ID)"
    )
    out.add_argument("--resume", action="store_true", help="continue the run in --out DIR if there is one")
    add_output(out)
    parser.set_defaults(preset="default")


def _spec(gpus: str, device: str) -> str:
    """The devices of a plan from `--gpus` and `--device`."""
    from rmeeto_bench.errors import UsageError

    if device != "sim":
        return gpus
    if gpus == "none":
        raise UsageError("--device sim simulates GPUs: give --gpus all, or kinds by name as `rmeeto-bench profiles` lists them")
    return "sim" if gpus == "all" else f"sim:{gpus}"


def _whole(text: str | None) -> int | None:
    """A batch size as typed."""
    from rmeeto_bench.errors import UsageError

    try:
        return None if text is None else int(text)
    except ValueError:
        raise UsageError(f"--batch-size is a whole number or `sweep`, not {text!r}") from None


def _models(arguments: argparse.Namespace, gpus: str) -> tuple[str, ...]:
    """The models of the plan; none where there are arms of the user's own alone."""
    if arguments.arm and not arguments.model:
        if arguments.compile:
            from rmeeto_bench.errors import UsageError

            raise UsageError("--compile is for models by name: give --model, or compile in your own code")
        return ()
    return at_typed_sizes(arguments.model or ("vim_small" if _on_gpus(gpus) else "vim_nano"), arguments.img_size)


def _with_compiled(models: tuple[str, ...]) -> tuple[str, ...]:
    """These models, and then each of them compiled."""
    from rmeeto_bench.models.sizes import COMPILE, uncompiled

    return *models, *(COMPILE + uncompiled(name) for name in models)


def _on_gpus(gpus: str) -> bool:
    """Whether a plan for these devices is for GPUs, real or simulated."""
    if gpus == "none" or gpus.startswith("sim"):
        return gpus != "none"
    import torch  # seconds: who names the model or no GPU does not wait for it

    return torch.cuda.is_available()


def plan_from(arguments: argparse.Namespace) -> BenchPlan:
    """The plan that the flags stand for. Raises `UsageError`."""
    from rmeeto_bench.bench.plan.plan import TABLE_12_RATIOS, BenchPlan
    from rmeeto_bench.bench.plan.ratios import parse_ratios, parse_rs

    gpus = _spec(arguments.gpus, arguments.device)
    sweep = arguments.batch_size == "sweep"
    return BenchPlan(
        models=_with_compiled(_models(arguments, gpus)) if arguments.compile else _models(arguments, gpus),
        together=arguments.together or arguments.compile,
        arms=tuple(arguments.arm or ()),
        baseline=arguments.baseline,
        ratios=TABLE_12_RATIOS if arguments.ratios is None else parse_ratios(arguments.ratios),
        rs=None if arguments.r is None else parse_rs(arguments.r),
        gpus=gpus,
        checkpoints=arguments.checkpoints,
        ema=arguments.ema,
        data=arguments.data,
        labels=arguments.labels,
        class_map=arguments.class_map,
        on_error=arguments.on_error,
        batch_size=None if sweep else _whole(arguments.batch_size),
        precision=arguments.precision,
        backend=arguments.backend,
        graphs=not arguments.no_graphs,
        preset=arguments.preset,
        images=arguments.images,
        seed=arguments.seed,
        inputs=arguments.inputs,
        sweep=sweep,
        paper_mode=arguments.paper_mode,
        energy=arguments.energy,
        trace=arguments.trace,
        fed=arguments.fed,
        what=arguments.what,
        schedule=arguments.schedule,
        accuracy_only=arguments.accuracy_only,
    )


PLANNED = {
    "model": ("models",),
    "arm": ("arms",),
    "img_size": ("models",),
    "compile": ("models", "together"),
    "ratios": ("ratios", "rs"),
    "r": ("ratios", "rs"),
    "no_graphs": ("graphs",),
}
PLANNED |= {"device": ("gpus",), "batch_size": ("batch_size", "sweep")}  # flag -> fields of the plan, where names differ


def given(add_arguments: Callable[[argparse.ArgumentParser], None], arguments: argparse.Namespace) -> set[str]:
    """The fields of the plan whose flags were typed with another value than the flag's default."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    typed = {name for name, value in vars(arguments).items() if value != parser.get_default(name)}
    return {field for name in typed for field in PLANNED.get(name, (name,))}


def check_same(folder: Path, plan: BenchPlan, fields: Collection[str]) -> None:
    """Raise `UsageError` if a resumed run is not the one that these flags ask for: it would be shown as its answer."""
    from dataclasses import fields as dataclass_fields

    from rmeeto_bench.bench.plan.plan import BenchPlan
    from rmeeto_bench.errors import UsageError
    from rmeeto_bench.records.run import load

    stored = BenchPlan.from_dict(load(folder).plan)
    known = [item.name for item in dataclass_fields(BenchPlan) if item.name in fields]
    differences = []
    if "rs" in known and (stored.rs is None) != (plan.rs is None):
        differences = ["other ratios: one by --r, one by --ratios"]
        known = [name for name in known if name not in ("ratios", "rs")]
    elif "rs" in known:
        known.remove("rs" if plan.rs is None else "ratios")
    differences += stored.differences(plan, known)
    if differences:
        raise UsageError(
            f"{folder} holds a run with {'; '.join(differences)}; leave those flags out to continue it, or choose another --out"
        )


def _dry_run(plan: BenchPlan, folder: Path) -> int:
    """Say what would be done and how long it would take."""

    from rmeeto_bench.bench.plan.estimate import outline
    from rmeeto_bench.bench.plan.require import require
    from rmeeto_bench.bench.run.devices import discover, no_gpu

    console = output.console()
    devices = discover(plan.gpus)
    if absent := no_gpu(plan.gpus, devices):
        console.print(f"note: {absent}: the CPU would be measured", soft_wrap=True)
    lines = []
    for resolved in require(plan, devices).values():
        for arm, weights in resolved.weights.items():
            known = f", known by {weights.known_by}" if weights.known_by != "unknown" else ""
            loaded = f"{weights.path} ({weights.label}{known})" if weights.path else f"{weights.label} weights"
            lines.append(f"  {arm}: " + (resolved.program if resolved.program in plan.own.values() else loaded))
        lines += [f"note: {note}" for note in resolved.notes]
    for line in (*outline(plan, devices), *lines):
        console.print(line, soft_wrap=True)
    console.print(f"files would go to {folder}", soft_wrap=True)
    return 0


def main(arguments: argparse.Namespace) -> int:
    """Measure, write the files, show the result; 5 if nothing could be measured, 6 if a device was lost, 130 if
    interrupted."""
    return begin_or_continue(arguments, add_arguments)


def begin_or_continue(arguments: argparse.Namespace, add_arguments: Callable[[argparse.ArgumentParser], None]) -> int:
    """Carry out the plan that the flags stand for, in a new folder or in one that `--resume` continues; `add_arguments` are
    those of the command."""
    plan, readers = plan_from(arguments), workers(arguments)  # before anything that takes long to load

    from rmeeto_bench.bench.run.runner import new_run_id, resume, run
    from rmeeto_bench.errors import UsageError
    from rmeeto_bench.records.run import MANIFEST

    folder = arguments.out or Path("runs") / new_run_id(plan)
    if arguments.dry_run:
        return _dry_run(plan, folder)
    if arguments.resume and arguments.out is None:
        raise UsageError("--resume needs the folder of the run: --out DIR, or: rmeeto-bench resume DIR")
    if arguments.resume and (folder / MANIFEST).is_file():
        check_same(folder, plan, given(add_arguments, arguments))
        return carry_out(lambda controls: resume(folder, controls), folder, arguments.json, readers, plan.arms)
    argv = tuple(sys.argv[1:])
    return carry_out(lambda controls: run(plan, folder, controls, argv=argv), folder, arguments.json, readers, plan.arms)
