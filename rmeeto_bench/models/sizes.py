"""The sizes of every model. Vim and VideoMamba differ only in these numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from rmeeto_bench.errors import UsageError
from rmeeto_bench.reduction import schedule
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import vit_schedule
from rmeeto_bench.validate import at_least, close_to


def _check_tiling(img_size: int, patch_size: int, step: int) -> None:
    """Raise `UsageError` if the patches of an image leave a rest of it out."""
    rest = (img_size - patch_size) % step
    if img_size < patch_size or rest:
        near = max(patch_size, img_size - rest)
        raise UsageError(
            f"img_size {img_size} does not fit patches of {patch_size} px every {step} px; {near} or {near + step} do"
        )


@dataclass(frozen=True)
class VimConfig:
    """Sizes of a Vim or VideoMamba. Defaults are Vim-Ti on 224 px ImageNet (paper appendix, Vim's model zoo)."""

    img_size: int = 224  # pixels, height and width
    patch_size: int = 16  # pixels, height and width
    stride: int = 0  # pixels from one patch to the next; 0: `patch_size`, so that patches do not overlap
    in_chans: int = 3  # colour channels of the input
    num_classes: int = 1000  # outputs of the head
    embed_dim: int = 192  # channels C of a token
    depth: int = 24  # number of blocks
    d_state: int = 16  # states N of each channel of the scan
    d_conv: int = 4  # taps K of the causal convolution
    expand: int = 2  # inner width of the mixer, as a multiple of `embed_dim`
    drop_path_rate: float = 0.1  # stochastic depth of the last block in training; it rises linearly from 0 at the first
    norm_eps: float = 1e-5  # added to the mean square in every RMSNorm
    divide_out: bool = True  # halve the sum of both directions (Vim), or not (VideoMamba)
    cls_first: bool = False  # the class token leads the sequence (VideoMamba) instead of sitting in its middle (Vim)
    frames: int = 0  # of a clip; 0 for images
    tubelet: int = 1  # frames per patch
    made_for: int = 0  # `img_size` of the weights that have this model's name, if it is another; 0: `img_size`

    def __post_init__(self) -> None:
        if self.stride < 0:
            raise UsageError(f"stride must be at least 1, not {self.stride}")
        positive = ("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "d_state", "expand", "tubelet")
        at_least(1, {name: getattr(self, name) for name in positive})
        _check_tiling(self.img_size, self.patch_size, self.step)
        if self.frames < 0 or self.frames % self.tubelet:
            raise UsageError(f"frames {self.frames} is not a multiple of tubelet {self.tubelet}")
        if self.frames and not self.cls_first:
            raise UsageError("a model of clips needs its class token first; set cls_first")

    @property
    def step(self) -> int:
        """Pixels from one patch to the next."""
        return self.stride or self.patch_size

    @property
    def side(self) -> int:
        """Patches along one side of an image or frame."""
        return (self.img_size - self.patch_size) // self.step + 1

    @property
    def frame_patches(self) -> int:
        """Patch tokens of one image, or of one frame (tubelet) of a clip."""
        return self.side**2

    @property
    def steps(self) -> int:
        """Positions in time: 1 for images."""
        return self.frames // self.tubelet if self.frames else 1

    @property
    def num_patches(self) -> int:
        """Patch tokens of one image or clip."""
        return self.frame_patches * self.steps

    @property
    def num_tokens(self) -> int:
        """Patch tokens and the class token."""
        return self.num_patches + 1

    @property
    def cls_position(self) -> int:
        """Index at which the class token enters the sequence: the middle, or the front."""
        return 0 if self.cls_first else self.num_patches // 2

    @property
    def dt_rank(self) -> int:
        """Rank of the dt projection."""
        return math.ceil(self.embed_dim / 16)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One input: (in_chans, H, W), or (in_chans, frames, H, W) of a clip."""
        return (self.in_chans, *((self.frames,) if self.frames else ()), self.img_size, self.img_size)

    def token_counts(self, reduction: ReductionConfig) -> tuple[int, ...]:
        """Tokens entering each block's mixer by the schedule (paper Table 10)."""
        return schedule.token_counts(reduction, depth=self.depth, initial_tokens=self.num_tokens)

    def r_for_ratio(self, ratio: float) -> tuple[int, float]:
        """The r whose realised ratio is nearest, and that ratio. Raises `UsageError` outside [0, 1)."""
        return _nearest_r(self, ratio)


@dataclass(frozen=True)
class DeitConfig:
    """Sizes of a DeiT. Defaults are DeiT-Ti. (R-MeeTo's copy has norm_eps 1e-5.)"""

    img_size: int = 224  # pixels, height and width
    patch_size: int = 16  # pixels, height and width; divides `img_size`
    in_chans: int = 3  # colour channels of the input
    num_classes: int = 1000  # outputs of the head
    embed_dim: int = 192  # channels C of a token
    depth: int = 12  # number of blocks
    num_heads: int = 3  # attention heads; divides `embed_dim`
    mlp_ratio: float = 4.0  # hidden width of the MLP, as a multiple of `embed_dim`
    drop_path_rate: float = 0.1  # stochastic depth of the last block in training; it rises linearly from 0 at the first
    norm_eps: float = 1e-6  # added to the variance in every LayerNorm
    made_for: int = 0  # `img_size` of the weights that have this model's name, if it is another; 0: `img_size`

    def __post_init__(self) -> None:
        positive = ("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads")
        at_least(1, {name: getattr(self, name) for name in positive})
        _check_tiling(self.img_size, self.patch_size, self.patch_size)
        if self.embed_dim % self.num_heads:
            raise UsageError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")

    @property
    def side(self) -> int:
        """Patches along one side of an image."""
        return self.img_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patch tokens of one image."""
        return self.side**2

    @property
    def num_tokens(self) -> int:
        """Patch tokens and the class token."""
        return self.num_patches + 1

    @property
    def cls_position(self) -> int:
        """The class token comes first."""
        return 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One input: (in_chans, H, W)."""
        return (self.in_chans, self.img_size, self.img_size)

    def token_counts(self, reduction: ReductionConfig) -> tuple[int, ...]:
        """Tokens entering each block by the schedule."""
        return vit_schedule(reduction, depth=self.depth, initial_tokens=self.num_tokens)[:-1]

    def r_for_ratio(self, ratio: float) -> tuple[int, float]:
        """The r whose realised ratio is nearest, and that ratio. Raises `UsageError` outside [0, 1)."""
        return _nearest_r(self, ratio)


@cache
def _nearest_r(sized: VimConfig | DeitConfig, ratio: float) -> tuple[int, float]:
    """A run asks for the same few ratios hundreds of times."""
    return schedule.nearest_r(ratio, sized.token_counts, sized.num_tokens)


VIM: dict[str, VimConfig] = {
    "vim_tiny": VimConfig(embed_dim=192),
    "vim_small": VimConfig(embed_dim=384),
    "vim_base": VimConfig(embed_dim=768),
    "vim_tiny_plus": VimConfig(embed_dim=192, stride=8),  # Vim's models with overlapping patches, 730 tokens
    "vim_small_plus": VimConfig(embed_dim=384, stride=8),
    # Bundled: 14 x 14 patches and depth 24 give the paper's 197 tokens and its table of r and ratio on 28 x 28 images.
    "vim_nano": VimConfig(img_size=28, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, d_state=8, drop_path_rate=0.0),
}
_TINY = VimConfig(divide_out=False, cls_first=True)
IMAGE: dict[str, VimConfig] = {
    "videomamba_tiny": _TINY,
    "videomamba_small": replace(_TINY, embed_dim=384),
    "videomamba_middle": replace(_TINY, embed_dim=576, depth=32),
    "videomamba_base": replace(_TINY, embed_dim=768),
}
VIDEO: dict[str, VimConfig] = {
    f"{name}_k400_f8": replace(sizes, frames=8, num_classes=400) for name, sizes in IMAGE.items() if name != "videomamba_base"
}
DEIT: dict[str, DeitConfig] = {
    "deit_tiny": DeitConfig(),
    "deit_small": DeitConfig(embed_dim=384, num_heads=6),
    "deit_base": DeitConfig(embed_dim=768, num_heads=12),
}

MOST_TOKENS = 2**17  # of one image or clip: a typing error must not ask for more memory than there is
Sizes = VimConfig | DeitConfig
MODELS: dict[str, Sizes] = {**VIM, **IMAGE, **VIDEO, **DEIT}


TIMM = "timm:"  # before the name of any of timm's models
COMPILE = "compile:"  # before the name of a model, ours or timm's, that torch.compile compiles


def uncompiled(name: str) -> str:
    """The model behind a compiled one; of any other its own name."""
    return name.rpartition(COMPILE)[2]


def is_other(name: str) -> bool:
    """Whether a model is not ours: timm's, or the user's own code."""
    return without_size(name)[0] not in MODELS


def without_size(name: str) -> tuple[str, int | None]:
    """A name as in `vim_tiny_384`, compiled or not -> the model's name, and the image size in pixels or None for its own."""
    name = uncompiled(name)
    base, _, size = name.rpartition("_")
    return (base, int(size)) if base in MODELS and size.isdecimal() and len(size) < 7 else (name, None)


def at_sizes(models: Sequence[str], img_sizes: Sequence[int] = ()) -> tuple[str, ...]:
    """The names of these models on images of each size, or of their own; a model's own size is its plain name, `vim_tiny_224`
    is `vim_tiny`. Raises `UsageError`."""
    found = []
    for name in models:
        how, inner = (COMPILE if name.startswith(COMPILE) else ""), uncompiled(name)
        if inner.startswith(TIMM):
            if img_sizes:
                raise UsageError(f"--img-size is for our models; {name} takes images of its own size")
            found.append(how + inner)
            continue
        base, named = without_size(name)
        if named is not None and img_sizes:
            raise UsageError(f"{name} has an image size in its name; leave out --img-size, or write {base}")
        own = config(name).made_for or config(name).img_size
        sizes = img_sizes or (own if named is None else named,)
        found += [how + (base if size == own else f"{base}_{size}") for size in sizes]
    return tuple(dict.fromkeys(found))


def config(name: str, **sizes: Any) -> Sizes:
    """The sizes of a model by name, with any of them overridden; `vim_tiny_384` is `vim_tiny` on images of 384 px.

    Raises `UsageError` for an unknown name or size.
    """
    base, img_size = without_size(name)
    if base not in MODELS:
        near = close_to(name, MODELS)
        raise UsageError(f"unknown model {name!r}{near}; choose {', '.join(MODELS)}, with an image size as in vim_tiny_384")
    known = MODELS[base]
    if img_size is not None:
        sizes = {"img_size": img_size, **sizes}
    if sizes.get("img_size", known.img_size) != known.img_size:
        sizes = {"made_for": known.img_size, **sizes}
    try:
        found = replace(known, **sizes)
    except TypeError:
        unknown = sorted(set(sizes) - {field.name for field in fields(known)})
        raise UsageError(f"{name} has no size {', '.join(unknown)}; see {type(known).__name__} for those there are") from None
    if found.num_tokens > MOST_TOKENS:
        raise UsageError(f"{name} on {found.img_size} px has {found.num_tokens:,} tokens; {MOST_TOKENS:,} are the most")
    return found
