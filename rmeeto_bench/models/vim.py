"""Vision Mamba (Vim) with optional token merging: one module, the unmerged baseline being r = 0.

The class token sits in the middle of the sequence; every block is "add, norm, mixer" on two streams, hidden and
residual (fp32). A merging block merges both streams before anything else (paper section 3). State-dict keys and
shapes are the public checkpoints'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.registry import Kernels, MergeKernels, Operands, select
from rmeeto_bench.models.mixer import Mixer, RMSNorm, SsmFeatures, direction_mean, drop_path
from rmeeto_bench.reduction import schedule
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.merging import MergeResult, merge_tokens

FUSIBLE = ReductionConfig()  # the merge kernels do the paper's method; a merge that differs in one of these runs in torch
FUSED = ("metric", "distance", "choose_k", "mode", "ordered", "prune", "cls_position", "score_dtype", "first_token_as_cls")


@dataclass(frozen=True)
class VimConfig:
    """Sizes of a Vim. Defaults are Vim-Ti on 224 px ImageNet (paper appendix, Vim's model zoo)."""

    img_size: int = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 192
    depth: int = 24
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    drop_path_rate: float = 0.1
    norm_eps: float = 1e-5
    divide_out: bool = True

    def __post_init__(self) -> None:
        for name in ("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "d_state", "expand"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.img_size % self.patch_size:
            raise UsageError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")

    @property
    def num_patches(self) -> int:
        """Patch tokens of one image."""
        return (self.img_size // self.patch_size) ** 2

    @property
    def num_tokens(self) -> int:
        """Patch tokens and the class token."""
        return self.num_patches + 1

    @property
    def cls_position(self) -> int:
        """Index at which the class token enters the sequence: the middle."""
        return self.num_patches // 2

    @property
    def dt_rank(self) -> int:
        """Rank of the dt projection."""
        return math.ceil(self.embed_dim / 16)


@dataclass
class Tokens:
    """The state between blocks: hidden [B, L, C], residual [B, L, C] fp32 or None, size [B, L, 1] or None (ones).

    `cls_position` is an int, or one per sample [B] when it is tracked exactly. `source` [B, L, L_0] says which
    original tokens each one holds, where it was asked for. `counts` are the tokens that entered each block's mixer.
    """

    hidden: Tensor
    residual: Tensor | None
    size: Tensor | None
    cls_position: int | Tensor
    source: Tensor | None
    counts: list[int]
    positions: list[int | Tensor]


class PatchEmbed(nn.Module):
    """Images [B, in_chans, H, W] -> patch tokens [B, P, C] in raster order."""

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, kernel_size=size, stride=size)

    def forward(self, images: Tensor) -> Tensor:
        """Project every patch with the same linear map."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Add, norm, mixer. Merging is the model's business, so a block has no reduction settings."""

    def __init__(self, config: VimConfig, drop_path_rate: float) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.norm = RMSNorm(config.embed_dim, config.norm_eps)
        scale = 0.5 if config.divide_out else 1.0
        self.mixer = Mixer(config.embed_dim, config.d_state, config.d_conv, config.expand, scale)

    def add_norm(self, hidden: Tensor, residual: Tensor | None, kernels: Kernels) -> tuple[Tensor, Tensor]:
        """(hidden, residual) [B, L, C] of the previous block -> (the mixer's input, this block's residual)."""
        if residual is not None:
            hidden = drop_path(hidden, self.drop_path_rate, training=self.training)
        return self.norm(hidden, residual, kernels)


class Vim(nn.Module):
    """Vision Mamba. `reduction.r = 0` is the plain model; any other r merges (or prunes) by the schedule.

    `backend` names the kernels (`auto`, `native`, `chunked`, `reference`, ...); the choice is made once per kind of
    device and readable as `model.kernels`.
    """

    def __init__(self, config: VimConfig, reduction: ReductionConfig | None = None, backend: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.backend = backend
        self.reduction = reduction or ReductionConfig()
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_tokens, dim))
        rates = [0.0, *(config.drop_path_rate * i / max(1, config.depth - 1) for i in range(config.depth))]
        self.layers = nn.ModuleList(Block(config, rates[i]) for i in range(config.depth))
        self.norm_f = RMSNorm(dim, config.norm_eps)
        self.head = nn.Linear(dim, config.num_classes)
        self._initialise()
        self._kernels: dict[str, Kernels] = {}
        self._last_counts: tuple[int, ...] | None = None
        self._set_merges()

    def _set_merges(self) -> None:
        """Fix what each block does before the first forward: nothing about the schedule is decided at run time."""
        removed = schedule.merges(self.reduction, depth=self.config.depth, initial_tokens=self.config.num_tokens)
        self._merges = {block: replace(self.reduction, r=r) for block, r in removed.items() if r > 0}

    def set_reduction(self, reduction: ReductionConfig) -> None:
        """Change how tokens are reduced; the weights stay."""
        self.reduction = reduction
        self._last_counts = None
        self._set_merges()

    @torch.no_grad()
    def _initialise(self) -> None:
        for parameter in (self.cls_token, self.pos_embed, self.head.weight):
            nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.zeros_(self.head.bias)
        fan_in = self.patch_embed.proj.weight[0].numel()
        nn.init.trunc_normal_(self.patch_embed.proj.weight, std=fan_in**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, Mixer):
                module.initialise(self.config.depth)

    @property
    def kernels(self) -> Kernels:
        """The kernels that serve this model where it lies now."""
        kind, float64 = self.cls_token.device.type, self.cls_token.dtype == torch.float64
        place = f"{kind} float64" if float64 else kind
        if place not in self._kernels:
            self._kernels[place] = select(self.backend, Operands(kind, self.config.d_state, self.config.d_conv, float64))
        return self._kernels[place]

    def token_counts(self) -> tuple[int, ...]:
        """Tokens entering each block's mixer: realised in the last forward, or by the schedule before the first."""
        return self._last_counts or self.planned_token_counts()

    def planned_token_counts(self) -> tuple[int, ...]:
        """Tokens entering each block's mixer by the schedule (paper Table 10)."""
        return schedule.token_counts(self.reduction, depth=self.config.depth, initial_tokens=self.config.num_tokens)

    @property
    def reduction_ratio(self) -> float:
        """1 - mean tokens per block / initial tokens (paper Table 10)."""
        return schedule.reduction_ratio(self.token_counts(), self.config.num_tokens)

    def embed(self, images: Tensor) -> Tensor:
        """Images [B, in_chans, H, W] -> tokens [B, L_0, C] with the class token in the middle and positions added."""
        expected = (self.config.in_chans, self.config.img_size, self.config.img_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise UsageError(f"this model takes images of shape (B, *{expected}), not {tuple(images.shape)}")
        x = self.patch_embed(images)
        middle = self.config.cls_position
        cls_token = self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype)
        return torch.cat([x[:, :middle], cls_token, x[:, middle:]], dim=1) + self.pos_embed.to(x.dtype)

    def forward_tokens(self, images: Tensor, *, track_source: bool = False) -> Tokens:
        """Run all blocks; returns the streams of the last one, before the final norm."""
        kernels = self.kernels
        hidden = self.embed(images)
        length = hidden.shape[1]
        source = torch.eye(length, device=hidden.device).expand(hidden.shape[0], -1, -1) if track_source else None
        start = 0 if self.reduction.first_token_as_cls else self.config.cls_position
        tokens = Tokens(hidden, None, None, start, source, [], [])
        features: SsmFeatures | None = None
        for index, layer in enumerate(cast(list[Block], self.layers)):
            merge = self._merges.get(index)
            if merge is not None and kernels.merge is not None and self._fusible(tokens, kernels.merge):
                normed = self._merge_add_norm(tokens, merge.r, layer.norm, kernels.merge)
            else:
                if merge is not None:
                    tokens = self._merge(tokens, merge, features)
                normed, tokens.residual = layer.add_norm(tokens.hidden, tokens.residual, kernels)
            tokens.hidden, features = layer.mixer(normed, kernels)
            tokens.counts.append(tokens.hidden.shape[1])
            tokens.positions.append(tokens.cls_position)
        self._last_counts = tuple(tokens.counts)
        return tokens

    @property
    def merge_path(self) -> str:
        """`none`, `fused` (matching and merging in two kernels at inference), or `torch: ` and why."""
        if not self._merges:
            return "none"
        if self.kernels.merge is None:
            return f"torch: the {self.kernels.name} backend has no merge kernels"
        other = [name for name in FUSED if getattr(self.reduction, name) != getattr(FUSIBLE, name)]
        if other:
            return f"torch: the merge kernels do not serve {', '.join(f'{n}={getattr(self.reduction, n)}' for n in other)}"
        if self.config.num_tokens > 2 * self.kernels.merge.most_sources:
            return f"torch: the merge kernels serve up to {2 * self.kernels.merge.most_sources} tokens"
        return "fused"

    def _fusible(self, tokens: Tokens, merge: MergeKernels) -> bool:
        """Whether this merge may run in the kernels: the paper's method, at inference, nothing else to fold along."""
        plain = all(getattr(self.reduction, name) == getattr(FUSIBLE, name) for name in FUSED)
        small = tokens.hidden.shape[1] <= 2 * merge.most_sources
        return plain and small and tokens.residual is not None and tokens.source is None and not torch.is_grad_enabled()

    def _merge_add_norm(self, tokens: Tokens, r: int, norm: RMSNorm, merge: MergeKernels) -> Tensor:
        """Merge both streams, add and normalise them; the state is brought up to date, the mixer's input returned."""
        assert tokens.residual is not None
        assert isinstance(tokens.cls_position, int)
        length = tokens.hidden.shape[1]
        r = schedule.effective_r(length, r)
        moved = schedule.moved_cls_position(tokens.cls_position, length, r, ordered=True)
        plan = merge.match(tokens.hidden, tokens.cls_position, moved, r)
        streams = (tokens.hidden, tokens.residual)
        normed, tokens.residual, tokens.size = merge.merge_add_norm(streams, tokens.size, plan, norm.weight, norm.eps)
        tokens.cls_position = moved
        return normed

    def _merge(self, tokens: Tokens, config: ReductionConfig, features: SsmFeatures | None) -> Tokens:
        merged: MergeResult = merge_tokens(
            tokens.hidden,
            tokens.residual,
            tokens.size,
            tokens.cls_position,
            config,
            metric=self._metric(features),
            source=tokens.source,
        )
        return replace(
            tokens,
            hidden=merged.hidden,
            residual=merged.residual,
            size=merged.size,
            cls_position=merged.cls_position,
            source=merged.source,
        )

    def _metric(self, features: SsmFeatures | None) -> Tensor | None:
        if self.reduction.metric == "X" or features is None:
            return None
        scale = 0.5 if self.config.divide_out else 1.0
        feature = getattr(features, self.reduction.metric)
        return direction_mean(feature, flip=self.reduction.metric_flip, scale=scale)

    def forward_features(self, images: Tensor) -> Tensor:
        """The normalised class token [B, C], input of the head."""
        tokens = self.forward_tokens(images)
        hidden = drop_path(tokens.hidden, self.config.drop_path_rate, training=self.training)
        normed, _ = self.norm_f(*_class_rows(hidden, tokens), self.kernels)
        return normed[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, in_chans, H, W] -> logits [B, num_classes], in training and evaluation alike."""
        return self.head(self.forward_features(images))


def _class_rows(hidden: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
    """The class rows [B, 1, C] of both streams: the final norm is per token, so the others need none."""
    p, residual = tokens.cls_position, tokens.residual
    if isinstance(p, int):
        return hidden[:, p : p + 1], None if residual is None else residual[:, p : p + 1]
    index = p.view(-1, 1, 1).expand(-1, 1, hidden.shape[2])
    return hidden.gather(1, index), None if residual is None else residual.gather(1, index)
