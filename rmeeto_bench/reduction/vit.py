"""The variant for ViTs (DeiT): it merges between attention and MLP, and the class token is the first source."""

from __future__ import annotations

from torch import Tensor

from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.matching import match
from rmeeto_bench.reduction.merging import drop, fold, merge_matched
from rmeeto_bench.reduction.schedule import effective_r


def merge_vit(
    x: Tensor,
    size: Tensor | None,
    config: ReductionConfig,
    *,
    metric: Tensor | None = None,
    class_token: bool = True,
    source: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Merge (or prune) x [B, L, C] with sizes [B, L, 1] and source [B, L, L_0]; returns all at length L - r.

    Even rows are sources, odd rows destinations, the class token at row 0 included: as a source that is never chosen.
    Unordered, kept sources come first, in index order if there is a class token, else by score.
    """
    r = effective_r(x.shape[1], config.r, protected=1 if class_token else 0)
    if r == 0:
        return x, size, source
    matching = match(x if metric is None else metric, None, r, config, fixed_first=class_token)
    if config.prune:
        kept = (None if t is None else drop(t, matching) for t in (size, source))
        return drop(x, matching), *kept  # type: ignore[return-value]
    (merged,), new_size = merge_matched((x,), size, matching, config.mode)
    assert merged is not None
    return merged, new_size, None if source is None else fold(source, matching, "amax")
