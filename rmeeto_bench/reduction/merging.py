"""Folding matched tokens together: the size-weighted average of the paper and its variants, on any tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.matching import Matching, match
from rmeeto_bench.reduction.schedule import effective_r


@dataclass(frozen=True)
class MergeResult:
    """The streams after a merge. A stream that was not given is None."""

    hidden: Tensor  # [B, L - r, C]
    residual: Tensor | None  # [B, L - r, C]
    size: Tensor | None  # [B, L - r, 1] fp32, original tokens that each row stands for; None stands for ones
    cls_position: int | Tensor  # row of the class token; one per sample [B] where it is tracked exactly
    source: Tensor | None  # [B, L - r, L_0], original tokens that each row holds


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x [B, L, F] by flat index [K] -> [K, F]."""
    return x.reshape(-1, x.shape[-1]).index_select(0, index)


def _unflatten(rows: Tensor, matching: Matching) -> Tensor:
    return rows.view(-1, matching.length_out, rows.shape[-1])


def drop(x: Tensor, matching: Matching) -> Tensor:
    """Pruning: x [B, L, F] without the chosen sources; the other rows are untouched."""
    return _unflatten(_rows(x, matching.survivors), matching)


def fold(x: Tensor, matching: Matching, mode: str) -> Tensor:
    """x [B, L, F] with every chosen source folded into its destination by `mode`, the destination's own value included."""
    out = _rows(x, matching.survivors)
    merged = _rows(x, matching.merged)
    if mode == "sum":
        return _unflatten(out.index_add(0, matching.slots, merged), matching)
    index = matching.slots[:, None].expand_as(merged)
    return _unflatten(out.scatter_reduce(0, index, merged, reduce=mode, include_self=True), matching)


def _weighted_mean(x: Tensor, share: Tensor, matching: Matching) -> Tensor:
    """Mode sum: destination += share * (source - destination), share [B r, 1] of the group's size.

    Equal to sum(x * size) / sum(size), but only the r merged rows are computed on; all others are copied bit for bit.
    """
    out = _rows(x, matching.survivors)
    step = share * (_rows(x, matching.merged) - _rows(x, matching.targets)).to(share.dtype)
    return _unflatten(out.index_add(0, matching.slots, step.to(x.dtype)), matching)


def merge_matched(
    tensors: tuple[Tensor | None, ...], size: Tensor | None, matching: Matching, mode: str
) -> tuple[tuple[Tensor | None, ...], Tensor]:
    """Size-weighted merge of several [B, L, C] tensors with the same matching and the same old sizes.

    Returns them at length L - r in their own dtypes, and the new sizes. size None stands for ones. Mode `sum` gives the
    weighted mean; `mean`, `amax` and `amin` fold x * size and size apart and divide, as upstream does (sizes then stay 1).
    """
    first = next(x for x in tensors if x is not None)
    if size is None:
        size = torch.ones(*first.shape[:2], 1, device=first.device)
    new_size = fold(size, matching, mode)
    if mode == "sum":
        share = _rows(size, matching.merged) / new_size.view(-1, 1).index_select(0, matching.slots)
        return tuple(None if x is None else _weighted_mean(x, share, matching) for x in tensors), new_size
    merged = (None if x is None else (fold(x * size, matching, mode) / new_size).to(x.dtype) for x in tensors)
    return tuple(merged), new_size


def merge_tokens(
    hidden: Tensor,
    residual: Tensor | None,
    size: Tensor | None,
    cls_position: int | Tensor,
    config: ReductionConfig,
    *,
    metric: Tensor | None = None,
    source: Tensor | None = None,
) -> MergeResult:
    """One merge of both streams of a Mamba block (paper section 3): remove `config.r` patch tokens, keep the order.

    hidden [B, L, C] and residual [B, L, C] or None, any float dtypes (kept) · size [B, L, 1] fp32, tokens each row stands
    for, None for ones · cls_position: row of the class token, which never takes part · metric [B, L, F]: what similarity
    is computed on, default hidden · source [B, L, L_0]: original tokens each row holds, folded along. r is clamped to
    half of the patches; if nothing is left to remove, the inputs are returned unchanged. Differentiable in hidden
    and residual at the fixed matching. Raises `UsageError` if the shapes do not match.
    """
    _check(hidden, residual, size, metric)
    r = effective_r(hidden.shape[1], config.r)
    if r == 0:
        return MergeResult(hidden, residual, size, cls_position, source)
    matching = match(hidden if metric is None else metric, cls_position, r, config)
    if config.prune:
        kept = (None if x is None else drop(x, matching) for x in (hidden, residual, size, source))
        new_hidden, new_residual, new_size, new_source = kept
    else:
        (new_hidden, new_residual), new_size = merge_matched((hidden, residual), size, matching, config.mode)
        new_source = None if source is None else fold(source, matching, "amax")
    assert new_hidden is not None
    return MergeResult(new_hidden, new_residual, new_size, matching.cls_position, new_source)


def _check(hidden: Tensor, residual: Tensor | None, size: Tensor | None, metric: Tensor | None) -> None:
    if hidden.dim() != 3:
        raise UsageError(f"hidden must be [B, L, C], not {tuple(hidden.shape)}")
    expected = {"residual": (residual, hidden.shape), "size": (size, (*hidden.shape[:2], 1))}
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != tuple(shape):
            raise UsageError(f"{name} must be {tuple(shape)} to go with hidden, not {tuple(tensor.shape)}")
    if metric is not None and metric.shape[:2] != hidden.shape[:2]:
        raise UsageError(f"metric must begin with {tuple(hidden.shape[:2])} as hidden does, not {tuple(metric.shape)}")
