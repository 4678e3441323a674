"""What to run: a frozen plan, and the cells (model x r) it stands for."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmeeto_bench.errors import DataError, UsageError
from rmeeto_bench.files import short
from rmeeto_bench.measure.protocol import CPU_BLOCK, CPU_TARGET, CPU_WARMUP_LIMIT, PRESETS, TimingProtocol
from rmeeto_bench.models.sizes import COMPILE, at_sizes, config, is_other
from rmeeto_bench.records.run import MERGED_FROM
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import PAPER_RATIOS, reduction_ratio
from rmeeto_bench.validate import at_least, flag, one_of

if TYPE_CHECKING:
    from rmeeto_bench.retrain.recipe import Optimisation

TRAIN = "train"
CHOICES = {
    "precision": ("auto", "fp32", "fp16", "bf16"),
    "inputs": ("auto", "real", "random", "both"),
    "schedule": ("serial", "parallel"),
    "on_error": ("stop", "skip"),
    "what": ("inference", TRAIN),
}
NAMED_CHECKPOINTS = ("bundled", "none", "zoo")
PATHS = ("data", "labels", "class_map")
QUICK_IMAGES = 2000
TABLE_12_RATIOS = tuple(ratio for ratio in PAPER_RATIOS if ratio != 0.36)
ARM = re.compile(r"[A-Za-z_][\w.-]{0,60}=([A-Za-z_][\w.]*:[A-Za-z_][\w.]*)?")
FLAGS = {"models": "model", "rs": "r", "arms": "arm"}  # fields whose flag has another name
SIZES = tuple(2**power for power in range(10))  # batch sizes of a sweep
ROUNDS = (6, 12)  # of a sweep, fewest and most: a knee needs a per cent, not a quarter of one


def size_name(arm: str, size: int) -> str:
    """Id of an arm at a batch size in the blocks of a sweep."""
    return f"{arm}@b{size}"


def protocol_for(plan: BenchPlan, kind: str) -> TimingProtocol:
    """The preset of a plan on a kind of device. On a CPU several sessions share the time of one, and their warm-ups are
    short."""
    protocol = replace(plan.protocol, seed=plan.seed)
    if kind != "cpu":
        return protocol
    on_cpu = replace(protocol, target=max(protocol.target, CPU_TARGET))
    if protocol.sessions == 1:
        return on_cpu
    return replace(
        on_cpu,
        block_seconds=min(protocol.block_seconds, CPU_BLOCK),
        warmup_seconds=protocol.warmup_seconds / protocol.sessions,
        warmup_limit=min(protocol.warmup_limit, CPU_WARMUP_LIMIT),
        time_limit=protocol.time_limit / protocol.sessions,
    )


def batch_size_for(plan: BenchPlan, kind: str) -> int:
    """The plan's batch size, or 128 on a GPU (in training the recipe's) and 32 on a CPU. Never changed later: what does not fit
    is reported so."""
    if plan.batch_size is None and plan.what == TRAIN and kind != "cpu":
        return _recipe(plan).batch_size
    return plan.batch_size or (32 if kind == "cpu" else 128)


def precision_for(plan: BenchPlan, kind: str) -> str:
    """The plan's precision, or fp16 on a GPU (a simulated one too; in training the recipe's) and fp32 on a CPU."""
    if plan.precision == "auto" and plan.what == TRAIN and kind != "cpu":
        return _recipe(plan).precision
    return plan.precision if plan.precision != "auto" else ("fp32" if kind == "cpu" else "fp16")


def _recipe(plan: BenchPlan) -> Optimisation:
    """How the first model of a plan is trained."""
    from rmeeto_bench.retrain.presets import recipe_for

    return recipe_for(plan.models[0]).optimisation


def _typed(value: object) -> str:
    """A field as one would type it."""
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return short(value) if isinstance(value, Path) else "the default" if value is None else str(value)


@dataclass(frozen=True)
class BenchPlan:
    """One run, as it is asked for."""

    models: tuple[str, ...] = ("vim_nano",)  # names
    together: bool = False  # the arms of all models share their rounds, and are compared with one of them
    baseline: str | None = None  # that one, as in vim_small/r0; None: the first
    arms: tuple[str, ...] = ()  # of the user's own code, NAME=MODULE:FUNCTION; nothing after `=` for what Python hands over
    ratios: tuple[float, ...] = TABLE_12_RATIOS  # reduction ratios to measure
    rs: tuple[int, ...] | None = None  # tokens that each merge removes, in place of `ratios`
    gpus: str = "all"  # all, none, indices, UUIDs or names, or `sim` and `sim:NAMES` for simulated ones
    # a folder (a file per r), a file or public name for all, `bundled`, `none`; None: what ships with the model
    checkpoints: str | None = None
    ema: bool = False  # take the averaged weights in the files
    data: Path | None = None  # a folder or file of images; None: the bundled set where it fits
    labels: Path | None = None  # file with the labels of a flat folder
    class_map: Path | None = None  # file that gives the classes their numbers
    on_error: str = "stop"  # `stop` at an unreadable image, or `skip` it
    batch_size: int | None = None  # images; None: 128 on a GPU, 32 on a CPU
    precision: str = "auto"  # fp32, fp16 or bf16; auto: fp16 on a GPU, fp32 on a CPU
    backend: str = "auto"  # kernels, a name of the registry or auto
    graphs: bool = True  # replay CUDA graphs on a GPU
    preset: str = "default"  # how long and how often to measure: a name of the timing protocols
    images: int | None = None  # evaluate on this many; None: all, or 2,000 when quick
    seed: int = 0  # of the orders of rounds, of the images chosen and of random inputs
    inputs: str = "auto"  # real, random or both; auto: real images where there is data
    sweep: bool = False  # also time batches of 1 to 512 images
    paper_mode: bool = False  # also replay the paper's protocol
    energy: bool = False  # also run every arm alone for its joules per image
    trace: bool = False  # also profile one step of every arm
    fed: bool = False  # also time the whole pipeline, from encoded images to logits
    what: str = "inference"  # what a step is: a forward, or train, a step of the optimizer by the model's recipe
    schedule: str = "serial"  # serial: one GPU after the other; parallel: together, if that changes nothing
    accuracy_only: bool = False  # time nothing; all devices share the images of one accuracy pass

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            one_of(flag(name), getattr(self, name), choices)
        one_of("the preset", self.preset, PRESETS)
        at_least(1, {flag(name): getattr(self, name) for name in ("batch_size", "images")})
        if self.accuracy_only and (self.sweep or self.paper_mode or self.energy or self.trace or self.fed):
            raise UsageError(
                "an evaluation times nothing; leave out --batch-size sweep, --paper-mode, --energy, --trace, --fed"
            )
        if self.what == TRAIN and (self.accuracy_only or self.sweep or self.paper_mode or self.fed):
            raise UsageError(
                "--what train times training steps alone; leave out --accuracy-only, --batch-size sweep, --paper-mode and --fed"
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed must be 0 or more, not {self.seed}")
        for name in PATHS:  # a run is resumed and repeated from any folder
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)).absolute())
        if self.checkpoints not in (None, *NAMED_CHECKPOINTS) and Path(self.checkpoints).exists():
            object.__setattr__(self, "checkpoints", str(Path(self.checkpoints).absolute()))
        object.__setattr__(self, "models", at_sizes(self.models))
        object.__setattr__(self, "together", self.together or bool(self.arms))
        self._check_arms()
        if any(name.startswith(COMPILE) for name in self.models) and (self.what == TRAIN or self.sweep or self.paper_mode):
            raise UsageError(
                f"models with {COMPILE} run forwards at one batch size alone; "
                "leave out --what train, --batch-size sweep and --paper-mode"
            )
        if self.baseline is not None and not self.together:
            raise UsageError("--baseline names the arm that all models are compared with; give --together, too")

    def _check_arms(self) -> None:
        names = [arm.partition("=")[0] for arm in self.arms]
        for arm, name in zip(self.arms, names, strict=True):
            if not ARM.fullmatch(arm):
                raise UsageError(f"--arm is NAME=MODULE:FUNCTION, as in mine=my_models:merged, not {arm!r:.80}")
            if not is_other(name) or names.count(name) > 1:
                raise UsageError(f"--arm {arm:.60}: another model has the name {name}; choose another")
        if self.arms and self.sweep:
            raise UsageError("--batch-size sweep is for models by name: code of your own may be made for one batch size")
        if not self.names:
            raise UsageError("there is nothing to measure; give --model or --arm")

    @property
    def own(self) -> dict[str, str]:
        """Name of an arm of the user's own code -> MODULE:FUNCTION."""
        return {name: target for name, _, target in (arm.partition("=") for arm in self.arms)}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all models: ours, timm's and the user's."""
        return (*self.models, *self.own)

    @property
    def protocol(self) -> TimingProtocol:
        """The measuring protocol behind the preset."""
        return PRESETS[self.preset]

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Name -> the models whose arms share rounds: all of them together, or each by itself."""
        if self.together:
            return {"+".join(self.names): self.names}
        return {model: (model,) for model in self.models}

    @property
    def evaluated_images(self) -> int | None:
        """Images of the accuracy pass; None for all."""
        return self.images or (QUICK_IMAGES if self.preset == "quick" else None)

    def differences(self, other: BenchPlan, fields: Collection[str]) -> list[str]:
        """`--flag mine, not theirs` for those of these fields that are not the same."""
        found = []
        for name in fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found.append(f"--{FLAGS.get(name, name.replace('_', '-'))} {_typed(mine)}, not {_typed(theirs)}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        lists = {name: list(value) for name, value in asdict(self).items() if isinstance(value, tuple)}
        paths = {name: None if getattr(self, name) is None else str(getattr(self, name)) for name in PATHS}
        return {**asdict(self), **lists, **paths}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> BenchPlan:
        """The plan of a manifest, of this version or an earlier one. Raises `DataError`, or `UsageError` for bad values."""
        if MERGED_FROM in value:
            runs = ", ".join(str(run.get("run_id")) for run in value[MERGED_FROM] if isinstance(run, dict))
            raise DataError(f"this run was merged from {runs}; continue or repeat those, where they were measured")
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise DataError(
                f"the run was planned with {', '.join(unknown)}, which this version does not know; upgrade rmeeto-bench"
            )
        try:
            tuples = {name: tuple(value[name]) for name in ("models", "ratios", "rs", "arms") if value.get(name) is not None}
            paths = {name: Path(value[name]) for name in PATHS if value.get(name) is not None}
            return cls(**{**value, **tuples, **paths})
        except (KeyError, TypeError) as error:
            raise DataError(f"the run's plan is damaged ({error!r})") from error


@dataclass(frozen=True)
class Cell:
    """One model at one r."""

    model: str  # name of the model
    reduction: ReductionConfig  # how its tokens are reduced, r included
    ratio_requested: float  # reduction ratio asked for
    reduction_ratio: float  # what r gives by the schedule

    @property
    def r(self) -> int:
        """Tokens removed per merge."""
        return self.reduction.r

    @property
    def name(self) -> str:
        """Id of the arm within a device."""
        return f"{self.model}/r{self.r}"


def group_cells(plan: BenchPlan, group: str) -> tuple[Cell, ...]:
    """The cells of all models of a group, the baseline first."""
    return baseline_first(plan, [cell for model in plan.groups[group] for cell in cells(plan, model)])


def baseline_first(plan: BenchPlan, found: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells of a group with the one in front that the others are compared with. Raises `UsageError` if it is not there."""
    if plan.baseline is None:
        return tuple(found)
    names = [cell.name for cell in found]
    for name in (plan.baseline, f"{plan.baseline}/r0"):
        if name in names:
            first = names.index(name)
            return (found[first], *found[:first], *found[first + 1 :])
    raise UsageError(f"--baseline {plan.baseline:.60} is no arm of this run; choose {', '.join(names)}")


def cells(plan: BenchPlan, model: str) -> tuple[Cell, ...]:
    """The cells of one model in ascending r; the baseline r = 0 is always among them, as every speed-up needs it."""
    if is_other(model):
        return (Cell(model, ReductionConfig(), 0.0, 0.0),)
    sized = config(model)

    def ratio_of(r: int) -> float:
        return reduction_ratio(sized.token_counts(ReductionConfig(r=r)), sized.num_tokens)

    requested: dict[int, float] = {r: ratio_of(r) for r in plan.rs or ()}
    for ratio in plan.ratios if plan.rs is None else ():
        requested.setdefault(sized.r_for_ratio(ratio)[0], ratio)
    requested.setdefault(0, 0.0)
    return tuple(Cell(model, ReductionConfig(r=r), requested[r], ratio_of(r)) for r in sorted(requested))
