"""Videos as the views of a published evaluation: frames sampled over the whole video, several clips and crops of each."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rmeeto_bench.data.image_set import IMAGENET, Normalisation
from rmeeto_bench.data.preprocessing import UnreadableImageError
from rmeeto_bench.errors import UnavailableError

Frame = TypeVar("Frame")
MOST_FRAMES = 100_000  # an hour at 25 frames per second; Kinetics clips have 300


def frame_indices(count: int, clip: int, *, clips: int, frames: int) -> list[int]:
    """Which of `count` frames clip number `clip` of `clips` takes: one per segment, shifted from clip to clip (spec 5.3)."""
    segment = max(0.0, (count - 1) / frames)
    shift = int(segment / (clips + 1) * (clip + 1))
    return [min(count - 1, round(segment * i) + shift) for i in range(frames)]


def random_frame_indices(count: int, frames: int, generator: np.random.Generator) -> list[int]:
    """Which of `count` frames a clip takes in training: one at random from each of `frames` equal segments, in order."""
    places = (np.arange(frames) + generator.uniform(size=frames)) * count / frames
    return [min(count - 1, int(place)) for place in places]


def crop_offsets(length: int, size: int, crops: int) -> list[int]:
    """Offsets of `crops` crops of `size` along a side of `length`: evenly from end to end, or centred if there is one."""
    if crops == 1:
        return [(length - size) // 2]
    return [int(j * (length - size) / (crops - 1)) for j in range(crops)]


@dataclass(frozen=True)
class VideoViews:
    """Views of a video: several clips, and several crops of each. The defaults are the published evaluation of Kinetics-400."""

    size: int = 224  # height and width of a view; the short side is resized to it (bilinear, as OpenCV does: no antialiasing)
    frames: int = 8  # of a clip
    clips: int = 4  # of a video, spread over its length
    crops: int = 3  # of a clip, along the long side
    normalisation: Normalisation = IMAGENET  # still to be applied to the pixels

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, frames, height, width) of one view."""
        return 3, self.frames, self.size, self.size

    @property
    def views(self) -> int:
        """Views of a video."""
        return self.clips * self.crops

    @property
    def item_shape(self) -> tuple[int, ...]:
        """(views, channels, frames, height, width) of a video."""
        return self.views, *self.shape

    def read(self, data: bytes) -> tuple[Tensor, str | None]:
        """An encoded video -> (uint8 [V, C, T, H, W], what is unusual about it, or None). Views of a clip are adjacent.

        Raises `UnreadableImageError` if a frame that is needed cannot be decoded.
        """
        chosen: list[list[int]] = []

        def choose(count: int) -> list[int]:
            chosen[:] = [frame_indices(count, clip, clips=self.clips, frames=self.frames) for clip in range(self.clips)]
            return [index for clip in chosen for index in clip]

        count, frames = read_frames(data, choose, lambda frame: _resize(torch.from_numpy(frame), self.size))
        views = torch.empty(self.item_shape, dtype=torch.uint8)
        for number, clip in enumerate(chosen):
            stack = torch.stack([frames[index] for index in clip], 1)  # [C, T, h, w]
            for crop in range(self.crops):
                views[number * self.crops + crop] = self._crop(stack, crop)
        return views, f"only {count} frames" if count < self.frames else None

    def _crop(self, stack: Tensor, crop: int) -> Tensor:
        height, width = stack.shape[-2:]
        if width >= height:
            left = crop_offsets(width, self.size, self.crops)[crop]
            return stack[..., : self.size, left : left + self.size]
        top = crop_offsets(height, self.size, self.crops)[crop]
        return stack[..., top : top + self.size, : self.size]


def training_clip(data: bytes, frames: int, generator: np.random.Generator) -> list[Image.Image]:
    """`frames` frames of an encoded video, one at random from each of as many equal segments, at the video's own size.

    Raises `UnreadableImageError`.
    """
    chosen: list[int] = []

    def choose(count: int) -> list[int]:
        chosen[:] = random_frame_indices(count, frames, generator)
        return chosen

    _, decoded = read_frames(data, choose, Image.fromarray)
    return [decoded[index] for index in chosen]


def read_frames(
    data: bytes, choose: Callable[[int], Iterable[int]], convert: Callable[[np.ndarray], Frame]
) -> tuple[int, dict[int, Frame]]:
    """(number of frames, index -> frame for the frames that `choose` picks, given that number).

    `convert` gets each as uint8 [h, w, 3] when it is decoded. Raises `UnreadableImageError` if one cannot be decoded.
    """
    av = _pyav()
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        count = _count_frames(av, data)
        wanted = set(choose(count))
        frames, seen = _decode(av, data, wanted, convert)
        if not wanted <= set(frames) and 0 < seen < count:  # packets that are never shown, as in some WebM files
            count = seen
            wanted = set(choose(count))
            frames, _ = _decode(av, data, wanted, convert)
    except av.FFmpegError as error:
        raise UnreadableImageError(f"damaged or no video: {error.strerror}") from error
    missing = sorted(wanted - set(frames))
    if missing:
        raise UnreadableImageError(f"damaged or cut short: frame {missing[0]} of {count} cannot be decoded")
    return count, frames


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise UnavailableError("reading videos needs PyAV; pip install 'rmeeto-bench[video]'") from error
    return av


def _stream(container: Any) -> Any:
    if not container.streams.video:
        raise UnreadableImageError("it has no video stream")
    stream = container.streams.video[0]
    stream.thread_count = 1  # videos are decoded side by side in processes
    return stream


def _count_frames(av: Any, data: bytes) -> int:
    """Count the frames by their packets: the number in the container is often wrong, and decoding all is slow."""
    with av.open(io.BytesIO(data)) as container:
        stream = _stream(container)
        count = sum(
            1 for packet in container.demux(stream) if packet.size and not packet.is_discard
        )  # an edit list hides those
    if not 0 < count <= MOST_FRAMES:
        raise UnreadableImageError(f"{count} frames are no clip")
    return count


def _decode(av: Any, data: bytes, wanted: set[int], convert: Callable[[np.ndarray], Frame]) -> tuple[dict[int, Frame], int]:
    """(frame number -> frame, converted, how many were seen); those that cannot be decoded are missing."""
    found: dict[int, Frame] = {}
    last, seen = max(wanted), 0
    with av.open(io.BytesIO(data)) as container:
        for index, frame in enumerate(container.decode(_stream(container))):
            seen = index + 1
            if index in wanted:
                found[index] = convert(frame.to_ndarray(format="rgb24"))
            if index >= last:
                break
    return found, seen


def _resize(frame: Tensor, size: int) -> Tensor:
    """uint8 [h, w, 3] -> uint8 [3, h', w'], the short side `size`."""
    height, width = frame.shape[:2]
    least = min(height, width)
    target = (size * height // least, size * width // least)
    pixels = frame.permute(2, 0, 1).unsqueeze(0).float()
    return F.interpolate(pixels, size=target, mode="bilinear", align_corners=False)[0].round().to(torch.uint8)
