"""Pictures to look at rather than to classify: files, animated files, and the photographs that scikit-image ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from rmeeto_bench.errors import DataError, UnavailableError

SAMPLES = "skimage:"


def open_picture(name: str) -> tuple[str, list[Image.Image]]:
    """(a short name, the frames) of a file, a folder of frames in the order of their names, or `skimage:astronaut`.

    A plain image is one frame. scikit-image's photographs are free to use (see its own licence list). Raises `DataError`,
    or `UnavailableError` where scikit-image is not installed.
    """
    if name.startswith(SAMPLES):
        return name.removeprefix(SAMPLES), [_sample(name.removeprefix(SAMPLES))]
    path = Path(name)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    frames = [frame for file in files for frame in _frames(file)]
    if not frames:
        raise DataError(f"{path} is an empty folder; give an image, an animated image or a folder of frames")
    return path.stem, frames


def _frames(path: Path) -> list[Image.Image]:
    try:
        with Image.open(path) as image:
            return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read image {path} ({error}); give an image file") from error


def _sample(name: str) -> Image.Image:
    try:
        import skimage.data
    except ImportError as error:
        raise UnavailableError("the sample photographs come with scikit-image; pip install scikit-image") from error
    known = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field")
    if name not in known:
        raise DataError(f"no sample photograph {name!r}; choose {', '.join(SAMPLES + one for one in known)}")
    try:
        return Image.fromarray(np.asarray(getattr(skimage.data, name)())).convert("RGB")
    except (OSError, ModuleNotFoundError) as error:
        raise UnavailableError(f"this scikit-image brings no {name} ({type(error).__name__}); choose another") from error
