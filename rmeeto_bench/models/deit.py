"""DeiT with token merging between attention and MLP: R-MeeTo's way (X, ordered or not) or ToMe's (keys, unordered).

The parts are timm's own (`VisionTransformer` is built once and taken apart), so timm's and DeiT's weights load as they
are; only the path of the tokens through a block is written here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from rmeeto_bench.errors import UsageError
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.sizes import DeitConfig
from rmeeto_bench.reduction import schedule
from rmeeto_bench.reduction.config import SSM_METRICS, Ablation, ReductionConfig
from rmeeto_bench.reduction.vit import merge_vit

METRIC_OF = {"Q": 0, "K": 1, "V": 2}
DEFAULTS = ReductionConfig()
# Options that a ViT does not use: it merges in every block, and its class token stays in the sequence.
UNUSED = ("placement", "interval", "final_tokens", "cls_position", "first_token_as_cls", "metric_flip")


@dataclass
class VitTokens:
    """The state between blocks; after the last one, it is the state before the final norm."""

    hidden: Tensor  # [B, L, C]
    size: Tensor | None  # [B, L, 1], original tokens that each row stands for; None stands for ones
    source: Tensor | None  # [B, L, L_0], original tokens that each row holds; None if not tracked
    counts: list[int]  # tokens that entered each block
    sources: list[Tensor] = field(default_factory=list)  # `source` after every block, if it is tracked


class Deit(ReducedModel):
    """DeiT. `reduction.r = 0` is the plain model. `backend` is accepted for one interface: attention has no other kernels."""

    def __init__(self, config: DeitConfig, reduction: ReductionConfig | None = None, backend: str = "auto") -> None:
        super().__init__()
        if backend not in ("auto", "reference"):
            raise UsageError(f"a DeiT runs on torch's attention; the backend is auto, not {backend!r}")
        self.config: DeitConfig = config
        vit = VisionTransformer(
            img_size=config.img_size,
            patch_size=config.patch_size,
            in_chans=config.in_chans,
            num_classes=config.num_classes,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            drop_path_rate=config.drop_path_rate,
            norm_layer=partial(nn.LayerNorm, eps=config.norm_eps),
        )
        self.cls_token, self.pos_embed = cast(nn.Parameter, vit.cls_token), cast(nn.Parameter, vit.pos_embed)
        self.patch_embed = cast(nn.Module, vit.patch_embed)
        self.blocks = cast(nn.Module, vit.blocks)
        self.norm = cast(nn.Module, vit.norm)
        self.head = cast(nn.Linear, vit.head)
        self.set_reduction(reduction or ReductionConfig())

    def set_reduction(self, reduction: ReductionConfig) -> None:
        """Change how tokens are reduced; the weights stay. Raises `UsageError` for what only a Mamba has."""
        if reduction.metric in SSM_METRICS:
            raise UsageError(f"metric {reduction.metric} belongs to a scan; a ViT has X, Q, K and V")
        other = [name for name in UNUSED if getattr(reduction, name) != getattr(DEFAULTS, name)]
        if other or replace(reduction.ablation, seed=0) != Ablation():
            unused = ", ".join(other) or "ablation of the matching"
            raise UsageError(f"a ViT merges in every block and has no {unused}; leave it out")
        self.reduction = reduction
        self._last_counts = None
        counts = schedule.vit_schedule(reduction, depth=self.config.depth, initial_tokens=self.config.num_tokens)
        self._removed = [before - after for before, after in pairwise(counts)]

    @property
    def kernels_name(self) -> str:
        """A ViT runs on torch's own attention."""
        return "torch"

    @property
    def merge_path(self) -> str:
        """`none`, or `torch: ` and why."""
        return "torch: a ViT has no merge kernels" if any(self._removed) else "none"

    def embed(self, images: Tensor) -> Tensor:
        """Images [B, in_chans, H, W] -> tokens [B, L_0, C], the class token first, positions added."""
        if tuple(images.shape[1:]) != self.config.input_shape:
            raise UsageError(f"this model takes images of shape (B, *{self.config.input_shape}), not {tuple(images.shape)}")
        x = self.patch_embed(images)
        return torch.cat([self.cls_token.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed.to(x.dtype)

    def forward_tokens(self, images: Tensor, *, track_source: bool = False) -> VitTokens:
        """Run all blocks; returns the tokens after the last one, before the final norm."""
        x = self.embed(images)
        eye = torch.eye(x.shape[1], device=x.device) if track_source else None
        tokens = VitTokens(x, None, None if eye is None else eye.expand(x.shape[0], -1, -1), [])
        for block, removed in zip(cast(list[Block], self.blocks), self._removed, strict=True):
            tokens.counts.append(tokens.hidden.shape[1])
            self._run_block(block, tokens, removed)
            if tokens.source is not None:
                tokens.sources.append(tokens.source)
        self._last_counts = tuple(tokens.counts)
        return tokens

    def _run_block(self, block: Block, tokens: VitTokens, removed: int) -> None:
        """Attention, merge, MLP. Updates `tokens` in place."""
        proportional = self.reduction.vit.proportional_attention
        mixed, metric = attend(block, block.norm1(tokens.hidden), tokens.size if proportional else None, self.reduction.metric)
        x = tokens.hidden + block.drop_path1(block.ls1(mixed))
        if removed:
            config = replace(self.reduction, r=removed)
            x, tokens.size, tokens.source = merge_vit(
                x, tokens.size, config, metric=metric, class_token=config.vit.protect_class, source=tokens.source
            )
        tokens.hidden = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    def forward_features(self, images: Tensor) -> Tensor:
        """The normalised class token [B, C], input of the head."""
        return self.norm(self.forward_tokens(images).hidden[:, 0])


def attend(block: Block, x: Tensor, size: Tensor | None, metric: str) -> tuple[Tensor, Tensor | None]:
    """timm's attention of normalised x [B, L, C] with log(size) on the logits of every key, and Q, K or V [B, L, C / heads]
    as the mean over heads (None for X)."""
    attention: Any = block.attn
    batch, length, _ = x.shape
    qkv = attention.qkv(x).view(batch, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)  # [3, B, H, L, C / H]
    weight = None if size is None else size.log().view(batch, 1, 1, length).to(x.dtype)
    y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=weight)
    mixed = attention.proj_drop(attention.proj(y.transpose(1, 2).reshape(batch, length, -1)))
    return mixed, None if metric == "X" else qkv[METRIC_OF[metric]].mean(1)


__all__ = ["Deit", "DeitConfig", "VitTokens", "attend"]
