"""Rendered images in the layouts that people have ImageNet in: 2,000 JPEGs of 500 x 375 in 20 classes."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from rmeeto_bench.data.layouts import fashion_mnist

CLASSES = 20
PER_CLASS = 100
SIZE = (500, 375)
BASES = 3  # different drawings per class; the rest are these with small changes


@dataclass(frozen=True)
class Made:
    """`items`: (class folder, file name, encoded bytes), sorted as class folders are read."""

    items: tuple[tuple[str, str, bytes], ...]
    classes: tuple[str, ...]

    @property
    def labels(self) -> np.ndarray:
        """int64 [N]."""
        return np.array([self.classes.index(folder) for folder, _, _ in self.items])


def _drawing(generator: np.random.Generator) -> Image.Image:
    """Blobs of colour, enlarged: smooth as photographs are, with something in every part."""
    small = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC)


def render(per_class: int = PER_CLASS, classes: int = CLASSES) -> Made:
    """Draw and encode the whole set."""
    generator = np.random.default_rng(7)
    names = tuple(f"shape_{i:02d}" for i in range(classes))
    items = []
    for name in names:
        bases = [_drawing(generator) for _ in range(BASES)]
        for i in range(per_class):
            image = bases[i % BASES]
            colour = tuple(generator.integers(0, 256, 3).tolist())
            x, y = generator.integers(60, 300, 2).tolist()
            ImageDraw.Draw(image).rectangle((x, y, x + 60, y + 60), fill=colour)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=75 + i % 20)
            items.append((name, f"{name}_{i:04d}.JPEG", buffer.getvalue()))
    return Made(tuple(items), names)


def write_folders(made: Made, folder: Path) -> Path:
    """`folder/<class>/<file>`."""
    for name in made.classes:
        (folder / name).mkdir(parents=True)
    for name, file, data in made.items:
        (folder / name / file).write_bytes(data)
        old = 1_600_000_000
        os.utime(folder / name / file, (old, old))
    return folder


def write_flat(made: Made, folder: Path) -> tuple[Path, Path, Path]:
    """All files in one folder; (folder, file of labels, class map)."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for name, file, data in made.items:
        (folder / "images" / file).write_bytes(data)
        lines.append(f"{file} {name}")
    labels, class_map = folder / "labels.txt", folder / "classes.txt"
    labels.write_text("\n".join(reversed(lines)) + "\n")
    class_map.write_text("\n".join(made.classes) + "\n")
    return folder / "images", labels, class_map


def write_tars(made: Made, folder: Path, shards: int = 3) -> Path:
    """Webdataset shards: an image and its class number under one key."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        with tarfile.open(folder / f"val-{shard:03d}.tar", "w") as archive:
            for (name, file, data), label in list(zip(made.items, made.labels.tolist()))[shard::shards]:
                add_member(archive, f"{Path(file).stem}.jpg", data)
                add_member(archive, f"{Path(file).stem}.cls", str(label).encode())
                assert name
    return folder


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """One regular file."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_parquet(made: Made, folder: Path, *, names: Sequence[str] | None = None, files: int = 2) -> Path:
    """The hub's layout: `data/validation-0000i-of-0000n.parquet` with images as structs of bytes and path."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"names": list(names or made.classes), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    rows = [{"bytes": data, "path": file} for _, file, data in made.items]
    labels = made.labels
    bounds = np.linspace(0, len(rows), files + 1).astype(int)
    for i, (low, high) in enumerate(zip(bounds, bounds[1:])):
        table = pa.table({"image": rows[low:high], "label": pa.array(labels[low:high])}).replace_schema_metadata(metadata)
        pq.write_table(table, folder / "data" / f"validation-{i:05d}-of-{files:05d}.parquet", row_group_size=100)
    return folder


def write_grey_folders(folder: Path, classes: dict[str, int], *, training: int = 10, validation: int = 6) -> Path:
    """Fashion-MNIST as PNG files in train/ and val/: name of a class folder -> class. The last class is missing in val/."""
    every = fashion_mnist.load("test")
    for name, label in classes.items():
        own = every.pixels[every.labels == label, 0].numpy()
        parts = {"train": own[:training], "val": own[training : training + validation]}
        for part, pixels in parts.items():
            if part == "val" and name == [*classes][-1]:
                continue
            (folder / part / name).mkdir(parents=True)
            for i, image in enumerate(pixels):
                Image.fromarray(image).save(folder / part / name / f"{i}.png")
    return folder


def write_fashion_mnist(folder: Path, training: int = 96, test: int = 40) -> Path:
    """IDX files with the first images of the bundled test split."""
    every = fashion_mnist.load("test")
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, part in (("train", slice(0, training)), ("t10k", slice(training, training + test))):
        images, labels = every.pixels[part, 0].numpy(), every.labels[part].numpy().astype("u1")
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big")
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return folder
