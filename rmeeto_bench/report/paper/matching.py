"""Find our value of a published number by what the number describes. The tables of this package share this."""

from __future__ import annotations

from collections.abc import Callable

from rmeeto_bench.published import PaperRow
from rmeeto_bench.records.run import Arm, Estimate
from rmeeto_bench.report.paper.item import Ours
from rmeeto_bench.report.paper.sources import IMAGE_MODELS, STAND_IN, VIDEO_MODELS, Sources, StoredArm

# The value of each setting that is the method itself; any other value is an ablation, which stored arms do not record.
METHOD = {
    "": None,
    "blocks": None,  # odd or even: told by the tokens
    "dataset": None,
    "ordered": "yes",
    "feature_row": "1",
    "distance": "cosine",
    "kth_closest": "1",
    "merge_interval": "2",
    "merge_mode": "sum",
    "grouping": "odd-even",
    "variant": "default",
    "train_fraction": "100%",
    "epochs": None,
}
WHOLE_SET = 50_000  # images of the ImageNet-1k validation set
OURS_METHODS = ("merging", "R-MeeTo", "R-MeeTo (odd-block)", "R-MeeTo (training-free)", "R-MeeTo (re-train)")


def our_model(row: PaperRow) -> str | None:
    """Our name of a row's model; the video tables mean the models for clips."""
    return (VIDEO_MODELS if row.table in ("13", "14") else IMAGE_MODELS).get(row.model)


def is_baseline(row: PaperRow) -> bool:
    """Whether the row is about the unmerged model."""
    return "baseline" in row.method or row.regime == "baseline" or row.r == "0"


def is_method(row: PaperRow) -> bool:
    """Whether the row is about the unchanged method or the unmerged model, not an ablation or a rival."""
    known = METHOD.get(row.setting_name, "")
    as_is = known is None or known == row.setting_value
    return as_is and (is_baseline(row) or row.method in OURS_METHODS)


def placement(row: PaperRow) -> str:
    """Which blocks merge: even or odd."""
    return "odd" if row.table in ("18", "19", "21") else "even"


def weights(row: PaperRow) -> tuple[str, ...]:
    """The kinds of weights whose accuracy belongs to a row."""
    if is_baseline(row):
        return ("baseline",)
    return ("training-free",) if "training-free" in f"{row.regime} {row.method}" else ("retrained",)


def _accuracy_match(stored: StoredArm, row: PaperRow) -> str:
    whole = stored.arm.n_images == WHOLE_SET and stored.arm.model != STAND_IN
    data = f"{'as many images' if whole else 'other data'} ({stored.data})"
    training = "; our re-training" if stored.arm.weights == "retrained" else ""
    stand_in = f"stand-in {STAND_IN} for {row.model}; " if stored.arm.model == STAND_IN else ""
    return f"{stand_in}{data}{training}"


Pick = Callable[[Arm], Estimate | None]


def _accuracy(row: PaperRow, sources: Sources, kinds: tuple[str, ...], pick: Pick) -> Ours | None:
    """A number of the first arm that has it: of the model, or of the bundled one as a stand-in for a Vim."""
    model = our_model(row)
    if model is None or not is_method(row):
        return None
    r = 0 if is_baseline(row) else int(row.r)
    for candidate in (model, STAND_IN) if model.startswith("vim_") else (model,):
        for stored in sources.find(candidate, r, placement(row)):
            value = pick(stored.arm)
            if stored.arm.weights in kinds and value is not None:
                match = _accuracy_match(stored, row)
                return Ours(value.value, match, value.low, value.high, comparable=candidate == model)
    return None


def top1(row: PaperRow, sources: Sources) -> Ours | None:
    """Top-1 in percent."""
    return _accuracy(row, sources, weights(row), lambda arm: arm.top1)


def _drop(arm: Arm) -> Estimate | None:
    if arm.r == 0:
        return None if arm.top1 is None else Estimate(0.0)
    delta = arm.delta_top1
    if delta is None:
        return None
    low, high = (None if bound is None else -bound for bound in (delta.high, delta.low))
    return Estimate(-delta.value, low, high)


def top1_drop(row: PaperRow, sources: Sources) -> Ours | None:
    """Points of top-1 lost to the unmerged model, paired by image."""
    return _accuracy(row, sources, weights(row), _drop)


def regained(row: PaperRow, sources: Sources) -> Ours | None:
    """Points of top-1 that re-training wins back. The two arms are of different weights, so there is no paired interval."""
    after = _accuracy(row, sources, ("retrained",), lambda arm: arm.top1)
    before = _accuracy(row, sources, ("training-free",), lambda arm: arm.top1)
    if after is None or before is None or after.comparable != before.comparable:
        return None
    return Ours(after.value - before.value, after.match, comparable=after.comparable)


def flops(row: PaperRow, sources: Sources) -> Ours | None:
    """GFLOPs as the paper counts: without the matching for the unmerged model, with it for a merged one."""
    model = our_model(row)
    if model is None or not is_method(row):
        return None
    baseline = sources.gflops(model, 0, placement(row))
    value = baseline if is_baseline(row) else sources.gflops(model, int(row.r), placement(row))
    if value is None or baseline is None:
        return None
    return Ours(baseline - value if row.metric == "flops_saved" else value, "computed")


def accuracy_and_flops(row: PaperRow, sources: Sources) -> Ours | None:
    """Our value of any number of a comparison or accuracy table, by its metric."""
    if row.metric == "top1":
        return top1(row, sources)
    if row.metric == "top1_drop":
        return top1_drop(row, sources)
    if row.metric in ("flops", "flops_saved"):
        return flops(row, sources)
    if row.regime == "retrained-trainingfree":
        return regained(row, sources)
    return None
