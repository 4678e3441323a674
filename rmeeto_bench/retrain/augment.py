"""Augmentation: of whole batches on the device the model trains on, and of single decoded images in worker processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rmeeto_bench.data.preprocessing import Preprocessing
from rmeeto_bench.retrain.recipe import Augmentation, Recipe


@dataclass(frozen=True)
class Draw:
    """The random numbers of one global batch."""

    shifts: Tensor | None  # [2, B, 1] int64, pixels; None: not augmented so
    mirrored: Tensor | None  # [B] bool; None: not augmented so

    def of(self, rank: int, size: int, copies: int = 1) -> Draw:
        """The part of one process: every `size`-th image from `rank` on, with all of its copies."""
        count = len(self.mirrored) if self.mirrored is not None else 0 if self.shifts is None else self.shifts.shape[1]
        own = torch.arange(count).view(-1, copies)[rank::size].flatten()
        return Draw(None if self.shifts is None else self.shifts[:, own], None if self.mirrored is None else self.mirrored[own])


def draw(settings: Augmentation, batch: int, generator: torch.Generator) -> Draw:
    """Random numbers for `batch` images; the same for any number of processes that share the batch."""
    shifted, shifts, mirrored = settings.crop == "shift" and settings.crop_padding > 0, None, None
    if shifted:
        shifts = torch.randint(0, 2 * settings.crop_padding + 1, (2, batch, 1), generator=generator)
    if settings.flip:
        mirrored = torch.rand(batch, generator=generator) < 0.5
    return Draw(shifts, mirrored)


def shift(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Move each image by `shifts - padding` pixels (shifts [2, B, 1] in 0..2 padding), zeros coming in. images [B, C, H, W]."""
    batch, channels, height, width = images.shape
    padded, shifts = F.pad(images, (padding,) * 4), shifts.to(images.device)
    rows = (shifts[0] + torch.arange(height, device=images.device))[:, None, :, None]  # [B, 1, H, 1]
    columns = (shifts[1] + torch.arange(width, device=images.device))[:, None, None, :]
    index = torch.arange(batch, device=images.device).view(-1, 1, 1, 1)
    return padded[index, torch.arange(channels, device=images.device).view(1, -1, 1, 1), rows, columns]


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Flip those images left to right that `mirrored` [B] names. images [B, C, H, W]."""
    return torch.where(mirrored.to(images.device).view(-1, 1, 1, 1), images.flip(3), images)


def augmented(pixels: Tensor, settings: Augmentation, drawn: Draw) -> Tensor:
    """Shift and mirror a batch as drawn. pixels [B, C, H, W] or [B, C, T, H, W]."""
    images = frames_as_channels(pixels)
    if drawn.shifts is not None:
        images = shift(images, drawn.shifts, settings.crop_padding)
    if drawn.mirrored is not None:
        images = mirror(images, drawn.mirrored)
    return images.view(pixels.shape)


def frames_as_channels(pixels: Tensor) -> Tensor:
    """[B, C, H, W] as it is, [B, C, T, H, W] as [B, C * T, H, W]: so an image augmentation treats all frames the same."""
    return pixels.flatten(1, 2) if pixels.dim() == 5 else pixels


def fit(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Float images [B, C, H, W] as a model of input `shape` takes them: resized (by area when shrinking), grey repeated to
    colour or colour averaged to grey."""
    if images.shape[1] != shape[0]:
        images = images.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    if images.shape[-1] > shape[-1]:
        return F.interpolate(images, size=shape[-1], mode="area")
    if images.shape[-1] < shape[-1]:
        return F.interpolate(images, size=shape[-1], mode="bilinear", align_corners=False)
    return images


def image_transform(settings: Augmentation, prepared: Preprocessing) -> Callable[[Image.Image], Tensor]:
    """From a decoded image to uint8 [channels, size, size]: random resized crop or what an evaluation does, then RandAugment.

    The mean of `prepared` fills what RandAugment moves in.
    """
    if settings.crop != "resized" and settings.randaugment == "none":
        return lambda image: prepared(image.convert(prepared.mode))
    from timm.data.auto_augment import rand_augment_transform  # timm takes seconds to import
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

    size, mean = prepared.size, prepared.normalisation.mean
    crop = RandomResizedCropAndInterpolation(size, scale=settings.crop_scale, interpolation="bicubic")
    fill: dict[str, Any] = {
        "translate_const": int(size * 0.45),
        "img_mean": tuple(min(255, round(255 * (mean * 3)[channel])) for channel in range(3)),
        "interpolation": Image.Resampling.BICUBIC,
    }
    chosen = None if settings.randaugment == "none" else rand_augment_transform(settings.randaugment, fill)

    def apply(image: Image.Image) -> Tensor:
        plain = image.convert(prepared.mode)
        plain = crop(plain) if settings.crop == "resized" else to_pil_image(prepared(plain))
        # RandAugment is written for colour; grey survives the way there and back.
        return pil_to_tensor(plain if chosen is None else chosen(plain.convert("RGB")).convert(prepared.mode))

    return apply


class BatchMix:
    """What happens to a normalised batch after everything else: random erasing, then mixup or cutmix (both timm's)."""

    def __init__(self, recipe: Recipe, num_classes: int, device: torch.device) -> None:
        a = recipe.augmentation
        self._erase: Any = None
        self._mix: Any = None
        if a.erasing > 0:
            from timm.data.random_erasing import RandomErasing  # timm takes seconds to import

            self._erase = RandomErasing(a.erasing, mode="pixel", device=str(device))
        if recipe.mixes:
            from timm.data import Mixup

            self._mix = Mixup(
                mixup_alpha=a.mixup,
                cutmix_alpha=a.cutmix,
                prob=1.0,
                switch_prob=0.5,
                mode="batch",
                label_smoothing=a.label_smoothing,
                num_classes=num_classes,
            )

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """images fp32 [B, C, H, W] or [B, C, T, H, W], labels int64 [B] -> images, and labels or their distributions
        [B, classes]."""
        shape, images = images.shape, frames_as_channels(images)
        if self._erase is not None:
            images = self._erase(images)
        if self._mix is not None:
            images, labels = self._mix(images, labels)
        return images.view(shape), labels
