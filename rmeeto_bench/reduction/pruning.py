"""The rivals that drop tokens on a Vim, reconstructed: Token Recognition (EViT's idea) and Hidden State Alignment.

Neither has complete public code for Vim; this file and docs/parity.md name what is inferred. Both drop patches after
a few layers by an importance score, where merging (and `ReductionConfig.prune`) drops the most redundant ones. Plain
tensors only; how a model runs them is `models.pruned`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rmeeto_bench.reduction.config import Pruning
from rmeeto_bench.validate import one_of

SCORERS, IMPORTANCES, GAPS = ("implicit", "cls_cosine", "norm"), ("backward", "sum"), ("zero_input", "self", "masked")


@dataclass(frozen=True)
class TokenRecognition(Pruning):
    """EViT's rule on a Vim (reconstruction: EViT scores by a ViT's attention, which a Mamba does not have)."""

    # score of a patch. implicit: the scan's implicit attention of the class token; cls_cosine: similarity to the class
    # token; norm: length of the gated scan output
    scorer: str = "implicit"
    resort: bool = False  # put the kept patches back into the original order; EViT leaves them in the order of scores
    fuse: bool = True  # append one token, the score-weighted sum of the dropped ones (not normalised, as in EViT)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("scorer", self.scorer, SCORERS)

    def after(self, patches: int) -> int:
        """Patch tokens that go on, a fused one included."""
        kept = self.kept(patches)
        return kept + 1 if self.fuse and kept < patches else kept


@dataclass(frozen=True)
class HiddenStateAlignment(Pruning):
    """Zhan et al., NeurIPS 2024 (reconstruction: the public code has the selection, but not the alignment).

    A patch's score is the mean over channels of max(0, y_t), where y is the gated output that `importance` names.
    """

    # which scan's gated output is scored: backward (as in the public code, flipped right), or the sum of both
    importance: str = "backward"
    # what the state does where a patch is missing. zero_input: it decays by the step of an empty token (softplus of the
    # bias); self: by the step of the next kept token, once per missing patch; masked: the whole sequence is kept with
    # zeroed rows (the convolution leaks into them)
    alignment: str = "zero_input"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("importance", self.importance, IMPORTANCES)
        one_of("alignment", self.alignment, GAPS)

    def kept(self, patches: int) -> int:
        """The published rule: patches and class token make an odd number, so that the class token can sit in the middle."""
        tokens = super().kept(patches)
        return min(patches, tokens - 1 if tokens % 2 else tokens) if self.keep < 1 else patches


def implicit_attention(delta: Tensor, A: Tensor, B: Tensor, C: Tensor, cls_position: int) -> Tensor:
    """Weight of every token in the class token's scan output, mean over channels of the absolute value: [B, L].

    delta [2, B, L, D] after softplus, A [2, D, N], B, C [2, B, L, N]. Tokens before the class token reach it through the
    forward scan, those behind it through the backward one: |sum_n C_c exp(A sum of delta between) delta_j B_j|. The
    class token's own entry is the forward scan's.
    """
    c, parts = cls_position, []
    for direction, span in ((0, slice(0, c + 1)), (1, slice(c + 1, None))):
        step = delta[direction].float()  # [B, L, D]
        passed = step.cumsum(1) if direction == 0 else step.flip(1).cumsum(1).flip(1)
        time = passed[:, c : c + 1] - passed[:, span]  # elapsed from j to the class token, its own step included
        decay = torch.exp(time[..., None] * A[direction].float())  # [B, j, D, N]
        weight = C[direction, :, c, None, :] * B[direction][:, span]  # [B, j, N]
        parts.append((torch.einsum("bjdn,bjn->bjd", decay, weight.float()) * step[:, span]).abs().mean(-1))
    return torch.cat(parts, dim=1)


def cosine_to_class(x: Tensor, cls_position: int) -> Tensor:
    """Cosine of every row of x [B, L, C] with the class token's: [B, L]."""
    return torch.cosine_similarity(x.float(), x[:, cls_position : cls_position + 1].float(), dim=-1)


def patch_rows(length: int, cls_position: int, device: torch.device) -> Tensor:
    """Rows of the patches, [L - 1]."""
    rows = torch.arange(length - 1, device=device)
    return rows + (rows >= cls_position).long()


def most_important(scores: Tensor, kept: int, *, resort: bool) -> Tensor:
    """Class-free indices [B, kept] of the highest scores [B, P], in descending order, or in their own. Ties: lowest first."""
    chosen = scores.argsort(dim=1, descending=True, stable=True)[:, :kept]
    return chosen.sort(1).values if resort else chosen


def keep_patches(x: Tensor, chosen: Tensor, places: tuple[int, int], fused: Tensor | None = None) -> Tensor:
    """x [B, L, F] with the chosen patches [B, K] only, then the fused one, the class token from places[0] to places[1].

    `fused` [B, P] holds the weights of the sum to append, zero for kept patches.
    """
    old, new = places
    patches = x[:, patch_rows(x.shape[1], old, x.device)]  # [B, P, F]
    kept = patches.gather(1, chosen[..., None].expand(-1, -1, x.shape[2]))
    if fused is not None:
        kept = torch.cat([kept, (fused[:, None].to(x.dtype) @ patches)], dim=1)
    return torch.cat([kept[:, :new], x[:, old : old + 1], kept[:, new:]], dim=1)


def gaps_between(index: Tensor, cls_position: int) -> Tensor:
    """Steps of the full sequence that lie between kept neighbours, [2, B, K + 1], from original patch indices [B, K].

    Forward: from the patch before; backward: from the one behind; 1 at the ends. The class token counts as no patch and
    takes one step: it is put back into the middle, so its own distance is not defined.
    """
    steps = index[:, 1:] - index[:, :-1]
    one = torch.ones_like(index[:, :1])
    gaps = torch.stack([torch.cat([one, steps], dim=1), torch.cat([steps, one], dim=1)])  # [2, B, K]
    middle = torch.ones_like(gaps[..., :1])
    return torch.cat([gaps[..., :cls_position], middle, gaps[..., cls_position:]], dim=2)
