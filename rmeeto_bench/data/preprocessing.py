"""Turn an encoded image into a model's input pixels: safe decoding, and the resizing that the accuracies depend on."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from rmeeto_bench.data.image_set import FASHION_MNIST, IMAGENET, Normalisation
from rmeeto_bench.errors import UsageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
CROP = 256 / 224  # the short side is resized to this times the crop: crop_pct 0.875 of the published evaluations
ORIENTATION = 0x0112  # EXIF
MOST_PIXELS = 89_478_485  # of a resized image: what PIL allows of one that is decoded


class UnreadableImageError(Exception):
    """Why an image cannot be decoded, in a few words; the reader adds which one it is."""


@dataclass(frozen=True)
class Preprocessing:
    """Resizing (bicubic, antialiased) and a centre crop."""

    size: int  # height and width of the crop, pixels
    short: int  # the image's short side is resized to this many pixels
    channels: int  # 3 (RGB) or 1 (grey)
    normalisation: Normalisation  # still to be applied to the pixels

    @classmethod
    def imagenet(cls, size: int) -> Preprocessing:
        """The protocol of all published image models: 256 and 224 (spec: short side `int(256 / 224 * size)`)."""
        return cls(size, int(CROP * size), 3, IMAGENET)

    @property
    def mode(self) -> str:
        """PIL's name for images with this many channels."""
        return "RGB" if self.channels == 3 else "L"

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of the output."""
        return self.channels, self.size, self.size

    @property
    def item_shape(self) -> tuple[int, ...]:
        """The same as `shape`: an image has one view."""
        return self.shape

    @property
    def views(self) -> int:
        """Always 1: an image has one view."""
        return 1

    def __call__(self, image: Image.Image) -> Tensor:
        """Decoded image -> uint8 [channels, size, size], equal to torchvision's Resize and CenterCrop on PIL images."""
        image = image.convert(self.mode)
        width, height = image.size
        least = min(width, height)
        if self.short * max(width, height) // least * self.short > MOST_PIXELS:
            raise UnreadableImageError(f"{width} x {height} pixels are too long and thin to be resized")
        # Integer division: scale factors in floating point lose a pixel of the long side now and then (750 x 375).
        resized = self._resize(image, self.short * width // least, self.short * height // least)
        left, top = (round((side - self.size) / 2) for side in resized.size)  # torchvision's, without its import of 3 s
        pixels = np.array(resized.crop((left, top, left + self.size, top + self.size)))  # [H, W] or [H, W, 3]
        return torch.from_numpy(pixels).view(self.size, self.size, -1).permute(2, 0, 1)

    def _resize(self, image: Image.Image, width: int, height: int) -> Image.Image:
        return image.resize((width, height), Image.Resampling.BICUBIC)

    def read(self, data: bytes) -> tuple[Tensor, str | None]:
        """Encoded bytes -> (uint8 [channels, size, size], what is unusual about the image and how it was read, or None).

        Raises `UnreadableImageError`.
        """
        image, unusual = decode(data)
        return self(image), unusual


@dataclass(frozen=True)
class Declared(Preprocessing):
    """Resizing and a centre crop as a model declares them."""

    interpolation: str = "bicubic"  # nearest, bilinear, bicubic, lanczos, box or hamming
    squash: bool = False  # both sides are resized to `short`, whatever the proportions

    def _resize(self, image: Image.Image, width: int, height: int) -> Image.Image:
        size = (self.short, self.short) if self.squash else (width, height)
        return image.resize(size, Image.Resampling[self.interpolation.upper()])


def declared(settings: Mapping[str, Any]) -> Declared:
    """From what a model declares: shape, short, interpolation, crop_mode, mean and std. Raises `UsageError` for what is not
    known here."""
    channels, height, width = settings["shape"]
    mode, interpolation = settings["crop_mode"], settings["interpolation"]
    known = mode in ("center", "squash") and interpolation.upper() in Image.Resampling.__members__
    if not known or height != width or channels not in (1, 3):
        what = f"{channels} x {height} x {width}, crop {mode}, {interpolation}"
        raise UsageError(f"a model prepares its images in a way that is not known here ({what}); leave out --data to time it")
    normalisation = Normalisation(tuple(settings["mean"]), tuple(settings["std"]))
    return Declared(height, settings["short"], channels, normalisation, interpolation, mode == "squash")


def preprocessing_for(shape: tuple[int, ...]) -> Preprocessing:
    """What a model of this input shape is trained and evaluated with: the ImageNet protocol, or whole grey images (the
    bundled model)."""
    channels, size = shape[0], shape[-1]
    if channels == 1:
        return Preprocessing(size, size, 1, FASHION_MNIST)
    return Preprocessing.imagenet(size)


def decode(data: bytes) -> tuple[Image.Image, str | None]:
    """Decode one image completely, and report what is unusual about it. Raises `UnreadableImageError`.

    Orientation tags are not followed: the published accuracies were measured without.
    """
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PIL warns of is looked at here, or costs nothing
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # PIL's limit: 89 million pixels
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            image.load()
            return _plain(image)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(f"it is no image ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"a decompression bomb, {str(error).partition(')')[0].rpartition('(')[2]}") from error
    except Exception as error:  # decoders raise whatever they meet in damaged bytes
        raise UnreadableImageError(f"damaged or cut short: {error}") from error


def _plain(image: Image.Image) -> tuple[Image.Image, str | None]:
    """An image that converts to RGB or grey without a warning, and what is unusual about it."""
    if image.mode.startswith("I"):
        return sixteen_bit(image), "16-bit grey, scaled to 8 bits"
    if image.mode == "CMYK":
        return image, "CMYK, converted to RGB"
    if image.getexif().get(ORIENTATION, 1) not in (0, 1):
        return image, "an EXIF orientation, ignored as in the published evaluations"
    if image.has_transparency_data:
        image = image.convert("RGBA")  # colours stay; PIL warns when a palette with transparency becomes RGB at once
        low, _ = image.getchannel("A").getextrema()
        return image, "transparency that is dropped" if low < 255 else None  # type: ignore[operator]
    if image.format != "JPEG" and getattr(image, "is_animated", False):
        return image, "an animation, of which the first frame is taken"
    return image, None


def sixteen_bit(image: Image.Image) -> Image.Image:
    """16-bit grey (modes I;16 and I) as 8-bit grey; PIL's own conversion would clip everything above 255 to white."""
    values = np.asarray(image).astype(np.float32) / np.float32(257)
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
