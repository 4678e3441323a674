"""Table 10, r and reduction ratio: it is arithmetic, so our value is always known."""

from __future__ import annotations

from rmeeto_bench.published import PaperRow
from rmeeto_bench.reduction.schedule import ReductionConfig, reduction_ratio, token_counts
from rmeeto_bench.report.paper.item import Needs, Ours, PaperItem
from rmeeto_bench.report.paper.sources import Sources


def _ratio(row: PaperRow, _sources: Sources) -> Ours:
    """The ratio of 197 tokens and 24 blocks, merging in the even ones."""
    return Ours(reduction_ratio(token_counts(ReductionConfig(r=int(row.r))), 197), "computed from the schedule")


ITEMS = (
    PaperItem("10", "Reduction ratio of each r", Needs("none", "none", "none", "none"), _ratio, "nothing: it is computed"),
)
