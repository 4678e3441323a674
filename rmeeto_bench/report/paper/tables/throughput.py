"""Table 12: images/s, speed-up and accuracy of Vim-S on six GPUs, by kind of GPU."""

from __future__ import annotations

from collections.abc import Iterator

from rmeeto_bench.published import PaperRow
from rmeeto_bench.report.paper.item import Needs, Ours, PaperItem
from rmeeto_bench.report.paper.matching import our_model, top1
from rmeeto_bench.report.paper.sources import Sources, StoredArm

PAPER_BATCH, PAPER_PRECISION, PAPER_KERNELS = 128, "fp16", "mamba_ssm"


def on_gpu(sources: Sources, model: str, r: int, column: str) -> Iterator[StoredArm]:
    """Arms that were timed on a GPU of the kind that the paper calls `column`, latest first."""
    for stored in sources.find(model, r):
        profile = stored.profile
        if stored.device.kind == "cuda" and profile is not None and profile.paper_column == column:
            yield stored


def stack(stored: StoredArm) -> str:
    """What is the same as in the paper's measurement, and what differs."""
    arm = stored.arm
    parts = [f"same GPU kind ({stored.device.name})"]
    parts.append("same kernels" if arm.backend == PAPER_KERNELS else f"other kernels ({arm.backend})")
    if arm.batch_size != PAPER_BATCH:
        parts.append(f"other batch ({arm.batch_size})")
    if arm.precision != PAPER_PRECISION:
        parts.append(f"other precision ({arm.precision})")
    return "; ".join(parts)


def _find(row: PaperRow, sources: Sources) -> Ours | None:
    if row.metric == "top1":
        return top1(row, sources)
    model = our_model(row)
    for stored in on_gpu(sources, model or "", int(row.r), row.setting_value):
        value = stored.arm.speedup if row.metric == "speedup" else stored.arm.images_per_second
        if value is not None:
            return Ours(value.value, stack(stored), value.low, value.high)
    return None


ITEMS = (
    PaperItem(
        "12",
        "Throughput and accuracy on six GPUs",
        Needs("vim_small", checkpoints="Vim-S at each r", gpu="RTX 3090, RTX 4090, V100, A4000, A100, H100"),
        _find,
        "needs valid runs of vim_small at r = 0, 5, 10, 11, 15, 20 on the GPUs that are empty here",
    ),
)
