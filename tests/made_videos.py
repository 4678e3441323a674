"""Small videos, encoded here."""

from __future__ import annotations

import io
from collections.abc import Iterable

import av
import numpy as np

SIZE = (80, 64)  # width, height


def encoded(frames: Iterable[np.ndarray]) -> bytes:
    """uint8 [64, 80, 3] each, as an MPEG-4."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.bit_rate = 4_000_000
        for pixels in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()


def video(frames: int, colour: int = 0) -> bytes:
    """A video whose brightness tells the frame number, and whose left half is darker by `colour`."""
    every = np.full((frames, SIZE[1], SIZE[0], 3), 60, np.uint8) + 3 * np.arange(frames, dtype=np.uint8)[:, None, None, None]
    every[:, :, : SIZE[0] // 2] -= np.uint8(colour)
    return encoded(every)


def still(frames: int) -> bytes:
    """A video in which nothing moves: the same waves in every frame."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    waves = 128 + 60 * np.sin(x / 6) + 50 * np.sin(y / 9 + x / 30)
    pixels = np.stack([waves, waves[::-1], waves[:, ::-1]], -1).astype(np.uint8)
    return encoded([pixels] * frames)
