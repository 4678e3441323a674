"""Pixels are torchvision's and PIL's to the bit; bad images are named, counted and never taken for something else."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from rmeeto_bench.data.find import find_data
from rmeeto_bench.data.image_set import UNREADABLE
from rmeeto_bench.data.preprocessing import Preprocessing, UnreadableImageError, decode
from rmeeto_bench.data.reading import EncodedSet, Reading
from rmeeto_bench.errors import DataError

IMAGENET = Preprocessing.imagenet(224)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (750, 375), (224, 224), (255, 1000), (301, 97), (1, 40), (640, 427)])
def test_pixels_are_those_of_torchvision_on_pil(size: tuple[int, int]) -> None:
    image = noise(*size)
    published = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    assert torch.allclose(IMAGENET.normalisation(IMAGENET(image)), published(image), rtol=0, atol=1e-6)
    pil_only = transforms.Compose(list(published.transforms[:2]))
    assert np.array_equal(IMAGENET(image).permute(1, 2, 0).numpy(), np.asarray(pil_only(image)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_sizes_agree_with_torchvision_for_every_shape(width: int, height: int) -> None:
    small = Preprocessing.imagenet(28)
    image = Image.new("RGB", (width, height), (90, 10, 200))
    reference = transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC)(image)
    cropped = transforms.CenterCrop(28)(reference)
    assert np.array_equal(small(image).permute(1, 2, 0).numpy(), np.asarray(cropped))


def test_resizing_is_plain_pil_bicubic() -> None:
    image = noise(500, 375)
    resized = image.resize((341, 256), Image.Resampling.BICUBIC).crop((58, 16, 58 + 224, 16 + 224))
    assert np.array_equal(IMAGENET(image).permute(1, 2, 0).numpy(), np.asarray(resized))


def test_a_grey_model_sees_whole_images_as_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), "PNG")
    grey = Preprocessing(28, 28, 1, IMAGENET.normalisation)
    assert np.array_equal(grey.read(data)[0][0].numpy(), pixels)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_an_exif_orientation_is_not_followed_but_reported() -> None:
    plain, rotated = (encoded(noise(60, 40), quality=95, exif=_exif(value)) for value in (1, 6))
    assert IMAGENET.read(plain)[1] is None
    pixels, unusual = IMAGENET.read(rotated)
    assert unusual is not None
    assert "EXIF" in unusual
    assert torch.equal(pixels, IMAGENET.read(plain)[0])


def test_cmyk_is_converted_and_reported() -> None:
    image = noise(60, 40)
    pixels, unusual = IMAGENET.read(encoded(image.convert("CMYK"), quality=95))
    assert unusual is not None
    assert "CMYK" in unusual
    assert (pixels.float() - IMAGENET(image).float()).abs().mean() < 25


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    image, unusual = decode(encoded(Image.fromarray(values), "PNG"))
    assert unusual is not None
    assert "16-bit" in unusual
    assert np.abs(np.asarray(image).astype(int) - np.round(values / 257)).max() == 0
    assert 120 < np.asarray(image.convert("RGB")).mean() < 135


def _bomb(side: int) -> bytes:
    """A PNG that claims to have `side` x `side` pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


WHOLE = encoded(noise(500, 375), quality=90)
BAD = {
    "empty.JPEG": (b"", "is empty"),
    "half.JPEG": (WHOLE[: len(WHOLE) // 2], "cut short"),
    "head.JPEG": (WHOLE[:300], "no image|cut short"),
    "text.JPEG": (b"<html>not found</html>", "no image"),
    "program.jpg": (b"\x7fELF" + bytes(400), "no image"),
    "vector.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
    "bomb.png": (_bomb(60_000), "bomb"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_what_cannot_be_decoded_says_why(name: str) -> None:
    data, says = BAD[name]
    with pytest.raises(UnreadableImageError, match=says):
        decode(data)


def test_a_header_that_pil_only_warns_of_is_refused_too() -> None:
    with pytest.raises(UnreadableImageError, match="bomb, 144000000 pixels"):
        decode(_bomb(12_000))


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """Two classes of five good images, and every bad one among them."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            (tmp_path / name / f"{i}.jpg").write_bytes(encoded(noise(50, 40, i)))
    for name, (data, _) in BAD.items():
        (tmp_path / "a" / name).write_bytes(data)
    (tmp_path / "b" / "rotated.jpg").write_bytes(encoded(noise(50, 40), exif=_exif(6)))
    (tmp_path / "b" / "cmyk.jpg").write_bytes(encoded(noise(50, 40).convert("CMYK")))
    (tmp_path / "b" / "deep.png").write_bytes(encoded(Image.fromarray(np.full((50, 40), 40_000, np.uint16)), "PNG"))
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_named_counted_and_left_out(spoilt: Path, workers: int) -> None:
    data = find_data(spoilt, shape=(3, 28, 28), num_classes=2, images=None, reading=Reading("skip", workers))
    assert isinstance(data, EncodedSet)
    batches = list(data.batches(4))
    labels = torch.cat([batch.labels for batch in batches])
    problems = [problem for batch in batches for problem in batch.problems]
    assert len(labels) == len(data) == 10 + len(BAD) + 3
    assert int((labels == UNREADABLE).sum()) == len(BAD)
    assert {Path(problem.path).name for problem in problems if problem.skipped} == set(BAD)
    assert {Path(problem.path).name for problem in problems if not problem.skipped} == {"rotated.jpg", "cmyk.jpg", "deep.png"}
    assert all(labels[problem.index] == UNREADABLE for problem in problems if problem.skipped)
    assert len({problem.index for problem in problems}) == len(problems)


def test_the_first_bad_image_stops_the_run_unless_told_otherwise(spoilt: Path) -> None:
    data = find_data(spoilt, shape=(3, 28, 28), num_classes=2, images=None)
    with pytest.raises(DataError, match=r"a/.*--on-error skip"):
        list(data.batches(4))


def test_files_that_are_no_images_by_name_and_empty_folders_are_named(spoilt: Path) -> None:
    (spoilt / "a" / "notes.txt").write_text("hello")
    (spoilt / "c").mkdir()
    data = find_data(spoilt, shape=(3, 28, 28), num_classes=3, images=None, reading=Reading("skip", 0))
    assert {(Path(p.path).name, p.reason) for p in data.problems} == {
        ("notes.txt", "other file is no image by its name"),
        ("c", "class folder is empty"),
    }
    with pytest.raises(DataError, match=r"incomplete: 1 class folder is empty .*passed over: 1 other file .*notes.txt"):
        find_data(spoilt, shape=(3, 28, 28), num_classes=3, images=None)
