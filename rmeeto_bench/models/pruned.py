"""A Vim that drops tokens by one of the rival methods (`reduction.pruning`) instead of merging; the weights are a Vim's."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.selective_scan.aligned import scan_directions, scan_through
from rmeeto_bench.models.sizes import VimConfig
from rmeeto_bench.models.vim import Tokens, Vim, VimBlock
from rmeeto_bench.reduction.config import Pruning
from rmeeto_bench.reduction.pruning import (
    HiddenStateAlignment,
    TokenRecognition,
    cosine_to_class,
    gaps_between,
    implicit_attention,
    keep_patches,
    most_important,
    patch_rows,
)


class PrunedVim(Vim):
    """Scores are taken after the chosen blocks, from what their scan was fed with or gave; both streams lose the same rows.

    Masked alignment computes on all rows: `token_counts` then says how many still carry something.
    """

    def __init__(self, config: VimConfig, pruning: Pruning, backend: str = "auto") -> None:
        super().__init__(config, None, backend)
        self.pruning = pruning
        self._after = set(pruning.blocks(config.depth))
        self._masked = isinstance(pruning, HiddenStateAlignment) and pruning.alignment == "masked"

    def planned_token_counts(self) -> tuple[int, ...]:
        """Tokens entering each block's mixer by the schedule."""
        return self.pruning.token_counts(depth=self.config.depth, initial_tokens=self.config.num_tokens)

    @property
    def merge_path(self) -> str:
        """Pruning has no kernels."""
        return f"torch: {type(self.pruning).__name__} has no kernels"

    def forward_tokens(self, images: Tensor, *, track_source: bool = False) -> Tokens:
        """Run all blocks; returns the streams of the last one, before the final norm."""
        tokens = self._start(images, track_source=track_source)
        batch, patches = tokens.hidden.shape[0], self.config.num_patches
        index = torch.arange(patches, device=tokens.hidden.device).expand(batch, -1)  # original place of every patch
        counts = self.planned_token_counts()
        for block, layer in enumerate(cast(list[VimBlock], self.layers)):
            normed, tokens.residual = layer.add_norm(tokens.hidden, tokens.residual, self.kernels)
            operands = layer.mixer.project(normed, self.kernels)
            y, directions = self._scan(operands, index, tokens, scored=block in self._after)
            tokens.hidden = layer.mixer.out_proj(y)
            self._note(tokens)
            if block in self._after and counts[block + 1] < counts[block]:
                index = self._prune(tokens, self._scores(tokens, operands, y, directions), index)
        if self._masked:
            tokens.counts = list(counts)
        self._last_counts = tuple(tokens.counts)
        return tokens

    def _scan(self, operands: ScanArguments, index: Tensor, tokens: Tokens, *, scored: bool) -> tuple[Tensor, Tensor | None]:
        """(the mixer's gated output [B, L, D], each direction's [2, B, L, D] where it was needed)."""
        pruning = self.pruning
        if not isinstance(pruning, HiddenStateAlignment):
            return self.kernels.selective_scan(operands), None
        gaps = None
        if not self._masked and index.shape[1] < self.config.num_patches:
            gaps = gaps_between(index, cast(int, tokens.cls_position))
        if gaps is None and not scored:
            return self.kernels.selective_scan(operands), None
        if gaps is not None and not scored:
            return scan_through(self.kernels.selective_scan, operands, gaps, pruning.alignment), None
        directions = scan_directions(operands, gaps, "zero_input" if self._masked else pruning.alignment)
        return operands.scale * directions.sum(0), directions

    def _scores(self, tokens: Tokens, operands: ScanArguments, y: Tensor, directions: Tensor | None) -> Tensor:
        """Importance of every row, [B, L]."""
        position = cast(int, tokens.cls_position)
        if isinstance(self.pruning, HiddenStateAlignment):
            assert directions is not None
            scored = directions[1] if self.pruning.importance == "backward" else directions.sum(0)
            return scored.float().clamp(min=0).mean(-1)
        scorer = cast(TokenRecognition, self.pruning).scorer
        if scorer == "norm":
            return y.float().norm(dim=-1)
        if scorer == "cls_cosine":
            return cosine_to_class(tokens.hidden.float() + cast(Tensor, tokens.residual).float(), position)
        delta = F.softplus(operands.dt.float() + operands.dt_bias[:, None, None])
        return implicit_attention(delta, operands.A, operands.B, operands.C, position)

    def _prune(self, tokens: Tokens, scores: Tensor, index: Tensor) -> Tensor:
        """Drop the least important patches of all streams; returns the original places of those left."""
        old = cast(int, tokens.cls_position)
        rows = patch_rows(tokens.hidden.shape[1], old, scores.device)
        if self._masked:
            return self._mask(tokens, scores[:, rows].gather(1, index), rows, index)
        scores = scores[:, rows]
        kept = self.pruning.kept(scores.shape[1])
        recognition = self.pruning if isinstance(self.pruning, TokenRecognition) else None
        chosen = most_important(scores, kept, resort=recognition is None or recognition.resort)
        fused = scores.scatter(1, chosen, 0.0) if recognition is not None and recognition.fuse else None
        new = 0 if self.config.cls_first else (kept + (fused is not None)) // 2
        for name in ("hidden", "residual", "source"):
            stream = getattr(tokens, name)
            weights = None if fused is None else fused if name != "source" else (fused != 0).float()
            setattr(tokens, name, None if stream is None else keep_patches(stream, chosen, (old, new), weights))
        tokens.cls_position = new
        return index.gather(1, chosen) if fused is None else torch.cat([index.gather(1, chosen), index[:, -1:]], dim=1)

    def _mask(self, tokens: Tokens, scores: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        """Zero the rows of the least important of the patches that still carry something."""
        chosen = index.gather(1, most_important(scores, self.pruning.kept(index.shape[1]), resort=True))
        alive = torch.zeros(tokens.hidden.shape[:2], device=scores.device)
        alive.scatter_(1, rows[chosen], 1.0)
        alive[:, cast(int, tokens.cls_position)] = 1.0
        for name in ("hidden", "residual", "source"):
            stream = getattr(tokens, name)
            setattr(tokens, name, None if stream is None else stream * alive[..., None].to(stream.dtype))
        return chosen
