"""Sources of our numbers: the valid arms of stored runs, and counts that need no measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rmeeto_bench.profiles import GpuProfile, load_profiles
from rmeeto_bench.published import PAPER_NAMES
from rmeeto_bench.records.run import Arm, DeviceRecord, RunRecord
from rmeeto_bench.reduction.schedule import ReductionConfig, token_counts
from rmeeto_bench.report.paper.read_ablations import Ablated
from rmeeto_bench.report.paper.read_trainings import StoredTraining

SIZES = (("Ti", "tiny"), ("S", "small"), ("B", "base"))
IMAGE_MODELS = {
    **{printed: ours for ours, printed in PAPER_NAMES.items()},
    **{f"VideoM-{short}": f"videomamba_{long}" for short, long in SIZES},
    **{f"DeiT-{short}": f"deit_{long}" for short, long in SIZES},
}
VIDEO_MODELS = {
    f"VideoM-{short}": f"videomamba_{long}_k400_f8" for short, long in (("Ti", "tiny"), ("S", "small"), ("M", "middle"))
}
STAND_IN = "vim_nano"  # the bundled model takes the place of a Vim that nobody has measured, and is labelled so

Gflops = Callable[[str, int, str], float | None]


def no_gflops(_model: str, _r: int, _placement: str) -> float | None:
    """A `gflops` for callers that count no operations."""
    return None


@dataclass(frozen=True)
class StoredArm:
    """An arm of a stored run, with what a reader must know to compare it."""

    arm: Arm  # its row
    device: DeviceRecord  # where it ran
    data: str  # name of the data, and the number of images
    run_id: str  # of its run
    created_utc: str  # of its run
    placement: str  # blocks that it merges in: even or odd

    @property
    def profile(self) -> GpuProfile | None:
        """The kind of GPU it ran on."""
        return next((profile for profile in load_profiles() if profile.name == self.device.profile), None)


@dataclass(frozen=True)
class Sources:
    """Everything that can stand beside a published number."""

    arms: tuple[StoredArm, ...] = ()  # latest run first
    left_out: tuple[str, ...] = ()  # results that may not stand beside the paper's, one line each
    gflops: Gflops = no_gflops  # (model, r, placement) -> GFLOPs as the paper counts; None for a model it cannot count
    ablated: tuple[Ablated, ...] = ()  # results of `ablate`
    trained: tuple[StoredTraining, ...] = ()  # logs of `retrain`

    def find(self, model: str, r: int, placement: str = "even") -> Iterator[StoredArm]:
        """The arms of a model at an r, latest first."""
        return (
            stored
            for stored in self.arms
            if (stored.arm.model, stored.arm.r) == (model, r) and (r == 0 or stored.placement == placement)
        )


def _placement(arm: Arm) -> str | None:
    """`even` or `odd`, deduced from its tokens; None if they follow no schedule of the paper. Block 0 never merges, so its
    count is the initial one."""
    if not arm.token_counts:  # a model of others
        return None
    sizes = {"depth": len(arm.token_counts), "initial_tokens": arm.token_counts[0]}
    for placement in ("even", "odd"):
        if token_counts(ReductionConfig(r=arm.r, placement=placement), **sizes) == arm.token_counts:
            return placement
    return None


def _refusal(arm: Arm, device: DeviceRecord, placement: str | None) -> str:
    """Why an arm may not stand beside a published number; empty if it may."""
    if device.kind == "sim" or arm.verdict == "SIMULATED":
        return "SIMULATED: no measurement"
    if arm.what != "inference":
        return "images/s of training steps, where the paper's are of inference"
    if arm.verdict != "VALID":
        return f"{arm.verdict}: {arm.verdict_detail}"
    return "" if placement else "its tokens per block follow none of the paper's schedules"


def gather(
    records: Sequence[RunRecord],
    gflops: Gflops = no_gflops,
    ablated: Sequence[Ablated] = (),
    trained: Sequence[StoredTraining] = (),
) -> Sources:
    """The valid arms of stored runs, ablations and trainings; invalid arms are left out, with the reason."""
    arms: list[StoredArm] = []
    refused: dict[tuple[str, str], list[str]] = {}
    for record in sorted(records, key=lambda record: record.created_utc, reverse=True):
        for arm in record.arms:
            device, placement = record.device(arm.device), _placement(arm)
            reason = _refusal(arm, device, placement)
            if reason or placement is None:
                refused.setdefault((record.run_id, reason), []).append(arm.arm)
                continue
            known = record.data.get(arm.model, {})
            data = f"{known.get('name') or 'unnamed data'}, {arm.n_images} images" if arm.n_images else "no data"
            own = arm if arm.is_over_own else replace(arm, speedup=None, delta_top1=None)
            arms.append(StoredArm(own, device, data, record.run_id, record.created_utc, placement))
    lines = [f"left out of run {run}: {', '.join(names)} ({reason})" for (run, reason), names in refused.items()]
    return Sources(tuple(arms), tuple(lines), gflops, tuple(ablated), tuple(trained))
