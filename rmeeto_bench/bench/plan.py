"""What to run: a frozen plan, and the cells (model x r) it stands for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rmeeto_bench.errors import UsageError
from rmeeto_bench.measure.rounds import PRESETS, Protocol
from rmeeto_bench.models.zoo import config
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import PAPER_RATIOS, r_for_ratio, reduction_ratio, token_counts

PRECISIONS = ("auto", "fp32", "fp16", "bf16")
TABLE_12_RATIOS = tuple(ratio for ratio in PAPER_RATIOS if ratio != 0.36)


@dataclass(frozen=True)
class BenchPlan:
    """One run. `gpus`: all, none, indices or UUIDs · `rs` instead of `ratios` if given · `checkpoints`: a folder (a file
    per r), a file or public name for all, `bundled`, `none`, or None for what ships with the model · `data`: a folder,
    or None for the bundled set where it fits · `batch_size` None: 128 on a GPU, 32 on a CPU · `precision` auto: fp16 on
    a GPU, fp32 on a CPU · `graphs`: replay CUDA graphs on a GPU ·
    `images`: evaluate on this many (None: all, or 2,000 when quick)."""

    models: tuple[str, ...] = ("vim_nano",)
    ratios: tuple[float, ...] = TABLE_12_RATIOS
    rs: tuple[int, ...] | None = None
    gpus: str = "all"
    checkpoints: str | None = None
    data: Path | None = None
    batch_size: int | None = None
    precision: str = "auto"
    backend: str = "auto"
    graphs: bool = True
    preset: str = "default"
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.preset not in PRESETS:
            raise UsageError(f"the preset is one of {', '.join(PRESETS)}, not {self.preset!r}")
        for name in ("batch_size", "images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        for model in self.models:
            config(model)

    @property
    def protocol(self) -> Protocol:
        """The measuring protocol behind the preset."""
        return PRESETS[self.preset]

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {**asdict(self), "data": None if self.data is None else str(self.data)}


@dataclass(frozen=True)
class Cell:
    """One model at one r. `ratio_requested` is what was asked for, `reduction_ratio` what r gives by the schedule."""

    model: str
    reduction: ReductionConfig
    ratio_requested: float
    reduction_ratio: float

    @property
    def r(self) -> int:
        """Tokens removed per merge."""
        return self.reduction.r

    @property
    def name(self) -> str:
        """Id of the arm within a device."""
        return f"{self.model}/r{self.r}"


def cells(plan: BenchPlan, model: str) -> tuple[Cell, ...]:
    """The cells of one model in ascending r; the baseline r = 0 is always among them, as every speed-up needs it."""
    sized = config(model)
    sizes = {"depth": sized.depth, "initial_tokens": sized.num_tokens}
    requested: dict[int, float] = {}
    for r in plan.rs or ():
        requested[r] = reduction_ratio(token_counts(ReductionConfig(r=r), **sizes), sized.num_tokens)
    for ratio in plan.ratios if plan.rs is None else ():
        r, _ = r_for_ratio(ratio, depth=sized.depth, initial_tokens=sized.num_tokens)
        requested.setdefault(r, ratio)
    requested.setdefault(0, 0.0)
    return tuple(
        Cell(
            model,
            ReductionConfig(r=r),
            requested[r],
            reduction_ratio(token_counts(ReductionConfig(r=r), **sizes), sized.num_tokens),
        )
        for r in sorted(requested)
    )
