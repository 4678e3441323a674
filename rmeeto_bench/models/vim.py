"""Vision Mamba (Vim, VideoMamba) with optional token merging, in one module; r = 0 is the unmerged baseline.

The class token sits in the middle of the sequence (Vim) or leads it (VideoMamba); every block is "add, norm, mixer" on
two streams, hidden and residual (fp32). A merging block merges both streams before anything else (paper section 3).
State-dict keys and shapes are the public checkpoints'.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.registry import Kernels, MergeKernels, Operands, select
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.mixer import Mixer, RMSNorm, SsmFeatures, direction_mean, drop_path
from rmeeto_bench.models.sizes import VimConfig
from rmeeto_bench.reduction import schedule
from rmeeto_bench.reduction.config import ATTENTION_METRICS, ReductionConfig
from rmeeto_bench.reduction.grouping import shuffle_patches
from rmeeto_bench.reduction.merging import MergeResult, merge_tokens

FUSIBLE = ReductionConfig()  # the merge kernels do the paper's method; a merge that differs in one of these runs in torch
FUSED = (
    "metric",
    "distance",
    "choose_k",
    "mode",
    "ordered",
    "prune",
    "cls_position",
    "score_dtype",
    "first_token_as_cls",
    "ablation",
)
BLOCK_STRIDE = 1_000_003  # between the seeds of two merging blocks


@dataclass
class Tokens:
    """The state between blocks."""

    hidden: Tensor  # [B, L, C]
    residual: Tensor | None  # [B, L, C] fp32; None before the first block
    size: Tensor | None  # [B, L, 1], original tokens that each row stands for; None stands for ones
    cls_position: int | Tensor  # row of the class token; one per sample [B] where it is tracked exactly
    source: Tensor | None  # [B, L, L_0], original tokens that each row holds; None if not tracked
    counts: list[int]  # tokens that entered each block's mixer
    positions: list[int | Tensor]  # `cls_position` after every block
    sources: list[Tensor] = field(default_factory=list)  # `source` after every block, if it is tracked


class PatchEmbed(nn.Module):
    """Images [B, in_chans, H, W] -> patches [B, 1, P, C] in raster order; clips [B, in_chans, T, H, W] -> [B, T', P, C]."""

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        size, step = config.patch_size, config.step
        self.proj: nn.Conv2d | nn.Conv3d
        if config.frames:
            kernel, stride = (config.tubelet, size, size), (config.tubelet, step, step)
            self.proj = nn.Conv3d(config.in_chans, config.embed_dim, kernel_size=kernel, stride=stride)
        else:
            self.proj = nn.Conv2d(config.in_chans, config.embed_dim, kernel_size=size, stride=step)

    def forward(self, images: Tensor) -> Tensor:
        """Project every patch with the same linear map."""
        x = self.proj(images)
        x = x[:, :, None] if x.dim() == 4 else x  # [B, C, T', H', W']
        return x.flatten(3).permute(0, 2, 3, 1)


class VimBlock(nn.Module):
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


class Vim(ReducedModel):
    """Vim, or VideoMamba by its config. `reduction.r = 0` is the plain model; any other r merges (or prunes) by the schedule.

    `backend` names the kernels (`auto`, `native`, `stepwise`, `reference`, ...); the choice is made once per kind of
    device and readable as `model.kernels`. `kernels`: exactly these instead, wherever the model runs.
    """

    def __init__(
        self,
        config: VimConfig,
        reduction: ReductionConfig | None = None,
        backend: str = "auto",
        *,
        kernels: Kernels | None = None,
    ) -> None:
        super().__init__()
        self.config: VimConfig = config
        self.backend = backend
        self.reduction = reduction or ReductionConfig()
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.frame_patches + 1, dim))
        if config.frames:
            self.temporal_pos_embedding = nn.Parameter(torch.zeros(1, config.steps, dim))
        rates = [0.0, *(config.drop_path_rate * i / max(1, config.depth - 1) for i in range(config.depth))]
        self.layers = nn.ModuleList(VimBlock(config, rates[i]) for i in range(config.depth))
        self.norm_f = RMSNorm(dim, config.norm_eps)
        self.head = nn.Linear(dim, config.num_classes)
        self._initialise()
        self._given, self._chosen = kernels, dict[str, Kernels]()
        self._set_merges()

    def _set_merges(self) -> None:
        """Decide before the first forward what each block does; nothing about the schedule is decided at run time."""
        if self.reduction.metric in ATTENTION_METRICS:
            raise UsageError(f"metric {self.reduction.metric} belongs to attention; a Mamba model has X, B, C and delta")
        self._fused_out = self._unfusible()
        removed = schedule.merges(self.reduction, depth=self.config.depth, initial_tokens=self.config.num_tokens)
        self._merges = {block: self._at_block(block, r) for block, r in removed.items() if r > 0}

    def _at_block(self, block: int, r: int) -> ReductionConfig:
        """The reduction of one block: its own r, and its own seed."""
        ablation = self.reduction.ablation
        return replace(self.reduction, r=r, ablation=replace(ablation, seed=ablation.seed + BLOCK_STRIDE * block))

    def set_reduction(self, reduction: ReductionConfig) -> None:
        """Change how tokens are reduced; the weights stay."""
        self.reduction = reduction
        self._last_counts = None
        self._set_merges()

    @torch.no_grad()
    def _initialise(self) -> None:
        if self.head.weight.is_meta:
            return  # a model of shapes alone
        for parameter in (self.cls_token, self.pos_embed, self.head.weight):
            nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.zeros_(self.head.bias)
        fan_in = self.patch_embed.proj.weight[0].numel()
        nn.init.trunc_normal_(self.patch_embed.proj.weight, std=fan_in**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, Mixer):
                module.initialise(self.config.depth)

    @property
    def kernels(self) -> Kernels:
        """The kernels for the device, dtype and mode this model has now."""
        if self._given is not None:
            return self._given
        kind, float64 = self.cls_token.device.type, self.cls_token.dtype == torch.float64
        gradients = self.training and torch.is_grad_enabled()
        place = " ".join((kind, *("float64",) * float64, *("gradients",) * gradients))
        if place not in self._chosen:
            operands = Operands(kind, self.config.d_state, self.config.d_conv, float64, gradients)
            self._chosen[place] = select(self.backend, operands)
        return self._chosen[place]

    @property
    def kernels_name(self) -> str:
        """Name of `kernels`."""
        return self.kernels.name

    @property
    def kernels_account(self) -> str:
        """What `kernels` are, and why no faster ones."""
        return self.kernels.account()

    def embed(self, images: Tensor) -> Tensor:
        """Images [B, in_chans, H, W] (or clips) -> tokens [B, L_0, C], class token in its place, positions added.

        A clip's tokens are frame after frame, each in raster order with the same spatial positions.
        """
        expected = self.config.input_shape
        if tuple(images.shape[1:]) != expected:
            raise UsageError(f"this model takes images of shape (B, *{expected}), not {tuple(images.shape)}")
        p = 0 if self.config.cls_first else self.config.frame_patches // 2  # the class token's row of pos_embed
        rows = self.pos_embed.to(self.patch_embed.proj.weight.dtype)
        x = self.patch_embed(images) + torch.cat([rows[:, :p], rows[:, p + 1 :]], dim=1)[:, None]  # [B, T', P, C]
        if self.config.frames:
            x = x + self.temporal_pos_embedding.to(x.dtype)[:, :, None]
        x = x.flatten(1, 2)
        cls_token = (self.cls_token.to(x.dtype) + rows[:, p : p + 1]).expand(x.shape[0], -1, -1)
        place = self.config.cls_position
        return torch.cat([x[:, :place], cls_token, x[:, place:]], dim=1)

    def _start(self, images: Tensor, *, track_source: bool) -> Tokens:
        """The state before the first block."""
        hidden = self.embed(images)
        eye = torch.eye(hidden.shape[1], device=hidden.device) if track_source else None
        source = None if eye is None else eye.expand(hidden.shape[0], -1, -1)
        position = 0 if self.reduction.first_token_as_cls else self.config.cls_position
        return Tokens(hidden, None, None, position, source, [], [])

    def forward_tokens(self, images: Tensor, *, track_source: bool = False) -> Tokens:
        """Run all blocks; returns the streams of the last one, before the final norm."""
        kernels = self.kernels
        tokens = self._start(images, track_source=track_source)
        features: SsmFeatures | None = None
        draws = torch.Generator().manual_seed(self.reduction.ablation.seed) if self.reduction.ablation.shuffle else None
        for index, layer in enumerate(cast(list[VimBlock], self.layers)):
            merge = self._merges.get(index)
            if merge is not None and kernels.merge is not None and self._fusible(tokens, kernels.merge):
                normed = self._merge_add_norm(tokens, merge.r, layer.norm, kernels.merge)
            else:
                if merge is not None:
                    self._shuffle(tokens, draws)
                    tokens = self._merge(tokens, merge, features)
                normed, tokens.residual = layer.add_norm(tokens.hidden, tokens.residual, kernels)
            tokens.hidden, features = layer.mixer(normed, kernels)
            if kernels.returns and self._merges:
                for name in SsmFeatures._fields:
                    self._joined(features, name, "features")
            if self.reduction.metric == "X":
                features = None  # else delta, the largest tensor, would outlive the next block's
            self._note(tokens)
        self._last_counts = tuple(tokens.counts)
        return tokens

    @staticmethod
    def _note(tokens: Tokens) -> None:
        """Record the state after a block has run."""
        tokens.counts.append(tokens.hidden.shape[1])
        tokens.positions.append(tokens.cls_position)
        if tokens.source is not None:
            tokens.sources.append(tokens.source)

    def _shuffle(self, tokens: Tokens, draws: torch.Generator | None) -> None:
        """The shuffle ablation. It runs before the metric is taken, but B, C and delta keep their order, as upstream's do."""
        if draws is None:
            return
        assert isinstance(tokens.cls_position, int)
        streams = (tokens.hidden, tokens.residual, tokens.size, tokens.source)
        hidden, tokens.residual, tokens.size, tokens.source = shuffle_patches(
            streams, tokens.cls_position, self.reduction.ablation.shuffle, draws
        )
        assert hidden is not None
        tokens.hidden = hidden

    @property
    def merge_path(self) -> str:
        """`none`, `fused` (matching and merging in two kernels at inference), or `torch: ` and why."""
        if not self._merges:
            return "none"
        if self.kernels.merge is None:
            return f"torch: the {self.kernels.name} backend has no merge kernels"
        other = self._fused_out
        if other:
            return f"torch: the merge kernels do not serve {', '.join(f'{n}={getattr(self.reduction, n)}' for n in other)}"
        if self.config.num_tokens > 2 * self.kernels.merge.most_sources:
            return f"torch: the merge kernels serve up to {2 * self.kernels.merge.most_sources} tokens"
        return "fused"

    def _unfusible(self) -> list[str]:
        """Settings that the merge kernels do not serve. The seed of an ablation that draws nothing does not count."""
        wanted = self.reduction
        if not wanted.ablation.stochastic:
            wanted = replace(wanted, ablation=replace(wanted.ablation, seed=0))
        return [name for name in FUSED if getattr(wanted, name) != getattr(FUSIBLE, name)]

    def _fusible(self, tokens: Tokens, merge: MergeKernels) -> bool:
        """Whether this merge may run in the kernels: the paper's method, at inference, nothing else to fold along."""
        plain = not self._fused_out
        small = tokens.hidden.shape[1] <= 2 * merge.most_sources
        return plain and small and tokens.residual is not None and tokens.source is None and not torch.is_grad_enabled()

    def _merge_add_norm(self, tokens: Tokens, r: int, norm: RMSNorm, merge: MergeKernels) -> Tensor:
        """Merge both streams, add and normalise them. Updates `tokens` and returns the mixer's input."""
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
        return self._joined(features, self.reduction.metric, self.reduction.metric_flip)

    def _joined(self, features: SsmFeatures, name: str, flip: str) -> Tensor:
        scale = 0.5 if self.config.divide_out else 1.0
        return direction_mean(getattr(features, name), flip=flip, scale=scale)

    def forward_features(self, images: Tensor) -> Tensor:
        """The normalised class token [B, C], input of the head."""
        tokens = self.forward_tokens(images)
        hidden = drop_path(tokens.hidden, self.config.drop_path_rate, training=self.training)
        normed, _ = self.norm_f(*_class_rows(hidden, tokens), self.kernels)
        return normed[:, 0]


def _class_rows(hidden: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
    """The class rows [B, 1, C] of both streams. The final norm is per token, so the other rows are not needed."""
    p, residual = tokens.cls_position, tokens.residual
    if isinstance(p, int):
        return hidden[:, p : p + 1], None if residual is None else residual[:, p : p + 1]
    index = p.view(-1, 1, 1).expand(-1, 1, hidden.shape[2])
    return hidden.gather(1, index), None if residual is None else residual.gather(1, index)


__all__ = ["Tokens", "Vim", "VimConfig"]
