"""`rmeeto-bench gate --base REF --head REF`: does the head run slower, need more memory or classify worse than the base?"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmeeto_bench.cli import comparing, images, output
from rmeeto_bench.cli.quantities import percent, points
from rmeeto_bench.files import cache_folder
from rmeeto_bench.validate import flag

if TYPE_CHECKING:
    from rmeeto_bench.compare.gate import Differences
    from rmeeto_bench.compare.gate_rule import Margins, Readings
    from rmeeto_bench.compare.programs import Side
    from rmeeto_bench.records.comparison import Comparison
    from rmeeto_bench.records.run import RunRecord

EPILOGUE = """A side is a git ref (a branch, tag or commit of the repository here), a folder with rmeeto_bench in it, a wheel,
or the folder of a stored run (advisory: it never fails). Fresh processes of both sides take turns on one device.
FAIL: a quantity is worse by more than its margin. PASS: a loss of twice its margin is excluded for every quantity. Either is
wrong in at most 5 of 100 gates, both looks together. A speed-up that fell because r = 0 got faster is no regression.
exit codes: 0 PASS, 3 FAIL, 4 inconclusive after one extension, 5 nothing measured, or simulated or invalid, 6 the machine lacks
something"""
PASSED_ON = (
    "model", "ratios", "r", "checkpoints", "data", "labels", "class_map", "on_error", "images", "batch_size", "precision",
    "backend", "seed",
)  # fmt: skip
FEW_IMAGES = 32  # of the processes after the first pair: their accuracy is not looked at
PATHS = ("checkpoints", "data", "labels", "class_map")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOGUE
    parser.add_argument("--base", required=True, metavar="SIDE", help="what to compare with, as origin/main")
    parser.add_argument("--head", default="HEAD", metavar="SIDE", help="what to judge (default: HEAD)")
    rule = parser.add_argument_group("rule")
    rule.add_argument(
        "--margin",
        type=percent,
        default=0.0075,
        metavar="P%",
        help="tolerated loss of images/s (default: 0.75%%); raised to what `calibrate` found this machine can resolve",
    )
    rule.add_argument(
        "--top1-margin", type=points, default=0.2, metavar="POINTS", help="tolerated loss of top-1 (default: 0.2)"
    )
    rule.add_argument("--memory-margin", type=percent, default=0.01, metavar="P%", help="tolerated GPU memory (default: 1%%)")
    rule.add_argument(
        "--pairs", type=int, default=6, metavar="N", help="processes a side before a possible extension (default: 6)"
    )
    what = parser.add_argument_group("what to measure (as for run)")
    what.add_argument(
        "--gpus", metavar="WHICH", help="one index, UUID or name, or none for the CPU (default: the first GPU, else none)"
    )
    what.add_argument("--model", metavar="NAMES")
    amount = what.add_mutually_exclusive_group()
    amount.add_argument("--ratios", metavar="LIST", help="default: 0,0.31,0.54")
    amount.add_argument("--r", metavar="LIST")
    images.add_data(what)
    what.add_argument("--images", type=int, metavar="N", help="for top-1 (default: as many as its margin requires)")
    for name in ("checkpoints", "batch-size", "precision", "backend", "seed"):
        what.add_argument(f"--{name}", metavar=name.upper().split("-")[-1])
    what.add_argument("--thorough", action="store_true", help="three long sessions per process instead of a short one")
    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, metavar="DIR", help="keep the run of every process here (default: a temporary folder)")
    comparing.add_output(out)


def run_flags(arguments: argparse.Namespace, images: int | None = None) -> list[str]:
    """The flags of each process. Folders are made absolute, as processes need not share our working directory."""
    words = ["--gpus", _device(arguments.gpus)]
    for name in PASSED_ON:
        value: Any = images if name == "images" else getattr(arguments, name)
        if value is not None and (name, value) != ("on_error", "stop"):  # a base may be too old to know the default's flag
            absolute = name in PATHS and Path(value).exists()
            words += [flag(name), str(Path(value).resolve()) if absolute else str(value)]
    if arguments.ratios is None and arguments.r is None:
        words += ["--ratios", "0,0.31,0.54"]
    return words + ([] if arguments.thorough else ["--quick"])


def images_sentence(margin: float, given: int | None) -> str:
    """How many images the margin of top-1 requires, and how many there will be."""
    from rmeeto_bench.compare.top1 import TYPICAL_CHANGE, images_needed

    needed = images_needed(margin)
    says = f"top-1: a margin of {margin:g} points needs {needed:,} images if {100 * TYPICAL_CHANGE:g} % of them change"
    if given is None:
        return f"{says}; the first pair sees that many, or all there are"
    enough = "" if given >= needed else ", which is enough only if fewer change"
    return f"{says}; the first pair sees {given:,}{enough}"


def _device(gpus: str | None) -> str:
    """One device: results of several would need the sides to take turns on each."""
    from rmeeto_bench.errors import UsageError

    if gpus is None:
        import torch

        return "0" if torch.cuda.is_available() else "none"
    if gpus == "all" or "," in gpus:
        raise UsageError("the gate uses one device; give one index, UUID or name, and run it once per GPU")
    return gpus


def _margins(arguments: argparse.Namespace, device: str) -> tuple[Margins, str]:
    """What was asked for, raised to what this device can resolve, and a sentence about that."""
    from rmeeto_bench.compare.gate_power import margin_for
    from rmeeto_bench.compare.gate_rule import Margins
    from rmeeto_bench.compare.noise import load_noise_profile
    from rmeeto_bench.records.comparison import share_text

    given = Margins(arguments.margin, arguments.top1_margin, arguments.memory_margin)
    profile = load_noise_profile(device)
    if profile is None:
        return given, "this device was never calibrated: the margin is as given (`rmeeto-bench calibrate` measures its noise)"
    least = margin_for(profile.noise.pair, arguments.pairs, given.rate)
    if least > given.rate:
        wide = f"the margin of images/s is {share_text(least)}"
        return replace(given, rate=least), f"{wide}: calibration found that this device resolves no smaller change"
    return given, ""


def _accuracy(out: dict[str, Path]) -> Callable[[RunRecord, RunRecord], Differences]:
    """The answers of the first runs of both sides by image, from their folders in `out` by run id."""
    from rmeeto_bench.bench.store.untrusted import open_if_kept
    from rmeeto_bench.compare.top1 import paired_top1

    def answers(base: RunRecord, head: RunRecord) -> Differences:
        found = {}
        theirs = {(arm.device, arm.arm): arm for arm in head.arms}
        with open_if_kept(out[base.run_id]) as first, open_if_kept(out[head.run_id]) as second:
            for arm in base.arms:
                match = theirs.get((arm.device, arm.arm))
                if match is None or arm.top1 is None or match.top1 is None:
                    continue
                paired, _ = paired_top1((first, arm), (second, match))
                if paired is not None:
                    found[arm.device, arm.arm] = paired
        return found

    return answers


def _judge(arguments: argparse.Namespace, sides: dict[str, Side], folder: Path) -> Comparison:
    """Let the processes of both sides take turns, each with a folder of its own, and judge."""
    from rmeeto_bench.compare.gate import Rules, from_store, run_gate
    from rmeeto_bench.compare.programs import start, start_together, takes_turns
    from rmeeto_bench.compare.readings import round_changes
    from rmeeto_bench.compare.top1 import images_needed
    from rmeeto_bench.records.run import load

    folders: dict[str, Path] = {}
    stored = []
    for name, side in sides.items():
        if side.kind == "stored":
            record = load(side.path)
            folders[record.run_id] = side.path
            stored.append(from_store(name, side.path, record))
    device = stored[0].records[0].devices[0].id if stored else _device_id(_device(arguments.gpus))
    turns = device == "cpu" and not stored and all(map(takes_turns, sides.values()))
    if len(stored) < len(sides):
        output.say(images_sentence(arguments.top1_margin, arguments.images), error=True)

    def measure(names: tuple[str, ...], number: int, *, accuracy: bool) -> dict[str, RunRecord]:
        how = f"{' and '.join(names)} in turns" if turns else ", ".join(names)
        output.say(f"pair {number + 1}: {how}", error=True)
        outs = {name: folder / f"{name}-{number + 1}" for name in names}
        seen = (arguments.images or images_needed(arguments.top1_margin)) if accuracy else FEW_IMAGES
        flags = run_flags(arguments, seen)
        if turns:
            records = start_together({name: sides[name] for name in names}, flags, outs)
        else:
            records = {name: start(sides[name], flags, outs[name]) for name in names}
        folders.update({record.run_id: outs[name] for name, record in records.items()})
        return records

    def changes_of(base: RunRecord, head: RunRecord) -> Readings:
        return round_changes((folders[base.run_id], base), (folders[head.run_id], head))

    margins, note = _margins(arguments, device)
    rules = Rules(margins, pairs=arguments.pairs)
    labels = (sides["base"].label, sides["head"].label)
    comparison = run_gate(labels, measure, rules, _accuracy(folders), stored, changes_of if turns else None)
    return replace(comparison, notes=(*comparison.notes, note)) if note else comparison


def _device_id(gpus: str) -> str:
    """The id by which calibration knows the device that the processes will use."""
    from rmeeto_bench.bench.run.devices import chosen_devices

    return chosen_devices(gpus)[0].id


def main(arguments: argparse.Namespace) -> int:
    """Make both sides ready, measure them by turns, judge, and say so."""
    from rmeeto_bench.compare.programs import resolve
    from rmeeto_bench.errors import DataError, UsageError

    if arguments.pairs < 2:
        raise UsageError("--pairs must be at least 2: one process a side has no spread")
    if arguments.out is not None and arguments.out.exists() and any(arguments.out.iterdir()):
        raise DataError(f"{arguments.out} is not empty; choose another --out or remove it")
    sides = {name: resolve(getattr(arguments, name), Path.cwd(), cache_folder("gate")) for name in ("base", "head")}
    with tempfile.TemporaryDirectory() as temporary:
        comparison = _judge(arguments, sides, arguments.out or Path(temporary))
    return comparing.show(comparison, arguments)
