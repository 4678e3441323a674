"""How fast images are decoded, and what six ratios in one pass cost beside the decoding of one.

    python benchmarks/decode.py --images 512 --out results/decode/NAME.json

JPEGs of 500 x 375 and about 110 kB, ImageNet's mean, are made in a temporary folder. "One pass" runs six arms of a model
so small that decoding is the bottleneck, as it is on a GPU: the ratio to decoding alone is what sharing the images costs.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from rmeeto_bench.bench.environment import environment
from rmeeto_bench.bench.plan.plan import Cell
from rmeeto_bench.bench.session.accuracy_pass import Pass, one_pass
from rmeeto_bench.bench.session.built_arm import BuiltArm, Setting
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.data.find import find_data
from rmeeto_bench.data.preprocessing import Preprocessing, decode
from rmeeto_bench.data.reading import EncodedSet, Reading, cores
from rmeeto_bench.measure.devices.device import CpuDevice
from rmeeto_bench.models.vim import Vim, VimConfig
from rmeeto_bench.reduction.config import ReductionConfig

CLASSES = 20
BATCH = 32
RS = (0, 1, 2, 3, 4, 5)
SMALL = VimConfig(img_size=224, patch_size=56, num_classes=CLASSES, embed_dim=16, depth=4, d_state=4, drop_path_rate=0.0)


def photograph(generator: np.random.Generator) -> bytes:
    """Smooth colour under grain, so that the file has the size of an ImageNet photograph."""
    blobs = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (500, 375), Image.Resampling.BICUBIC
    )
    grain = generator.normal(0, 14, (375, 500, 1))
    pixels = np.clip(np.asarray(blobs) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def make(folder: Path, images: int) -> list[bytes]:
    """A folder per class; returns the encoded images."""
    generator = np.random.default_rng(0)
    found = []
    for i in range(images):
        path = folder / f"class_{i % CLASSES:02d}" / f"{i:06d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        found.append(photograph(generator))
        path.write_bytes(found[-1])
    return found


def rate(work: Callable[[], Any], images: int, repeats: int = 3) -> float:
    """Images per second, the best of a few."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return images / min(seconds)


def decoders(encoded: list[bytes]) -> dict[str, float]:
    """Images per second of one core, by decoder, without and with the preprocessing."""
    few, whole = encoded[:128], Preprocessing.imagenet(224)
    tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in few]
    found = {
        "PIL": rate(lambda: [decode(data) for data in few], len(few)),
        "PIL, resize and crop": rate(lambda: [whole.read(data) for data in few], len(few)),
        "torchvision": rate(lambda: [decode_jpeg(data, ImageReadMode.RGB) for data in tensors], len(few)),
    }
    if torch.cuda.is_available():
        decode_jpeg(tensors, ImageReadMode.RGB, "cuda")
        found["torchvision on CUDA"] = rate(lambda: decode_jpeg(tensors, ImageReadMode.RGB, "cuda"), len(few))
    return found


def largest_difference(encoded: list[bytes]) -> int:
    """Between PIL's pixels and torchvision's, in steps of 255."""
    most = 0
    for data in encoded[:32]:
        reference = torch.from_numpy(np.array(decode(data)[0])).permute(2, 0, 1)
        other = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        most = max(most, int((reference.int() - other.int()).abs().max()))
    return most


def data_in(folder: Path, workers: int) -> EncodedSet:
    """The folder as an image set."""
    data = find_data(folder, shape=(3, 224, 224), num_classes=CLASSES, images=None, reading=Reading(workers=workers))
    assert isinstance(data, EncodedSet)
    return data


def arms() -> list[BuiltArm]:
    """Six ratios of a model that costs next to nothing."""
    found = []
    for r in RS:
        torch.manual_seed(0)
        model = Vim(SMALL, ReductionConfig(r=r), "auto").eval()
        found.append(BuiltArm(Cell("small", ReductionConfig(r=r), 0.0, 0.0), model, "random", None, model))
    return found


def seconds_of_pass(folder: Path, chosen: list[BuiltArm], workers: int) -> float:
    """One pass of these arms over the folder, database and all."""
    with tempfile.TemporaryDirectory() as out, Store.create(Path(out)) as store:
        start = time.perf_counter()
        one_pass(chosen, data_in(folder, workers), Pass(Setting(CpuDevice(), "fp32", BATCH, "auto"), store))
        return time.perf_counter() - start


def processor_cost(folder: Path) -> dict[str, float]:
    """Processor time of decoding alone and of one pass with six arms, both in this process: what other work on the
    machine does to the clock on the wall does not show here."""
    six = arms()
    for arm in six:
        arm.model(torch.zeros(BATCH, 3, 224, 224))
    start = time.process_time()
    for _ in data_in(folder, 0).batches(BATCH):
        pass
    alone = time.process_time() - start
    start = time.process_time()
    seconds_of_pass(folder, six, 0)
    together = time.process_time() - start
    return {"decode_seconds": alone, "one_pass_of_six_seconds": together, "one_pass_over_decode": together / alone}


def passes(folder: Path, images: int, workers: int, repeats: int) -> dict[str, float]:
    """Seconds of decoding alone, of one pass with six arms, and of six passes; the last once."""
    six = arms()
    for arm in six:
        arm.model(torch.zeros(BATCH, 3, 224, 224))
    alone, together, separate = [], [], []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in data_in(folder, workers).batches(BATCH):
            pass
        alone.append(time.perf_counter() - start)
        together.append(seconds_of_pass(folder, six, workers))
    separate.append(sum(seconds_of_pass(folder, [arm], workers) for arm in six))
    decoding, one, many = (float(np.median(values)) for values in (alone, together, separate))
    return {
        "decode_images_per_second": images / decoding,
        "decode_seconds": decoding,
        "one_pass_of_six_seconds": one,
        "six_passes_seconds": many,
        "one_pass_over_decode": one / decoding,
        "six_passes_over_decode": many / decoding,
    }


def main() -> None:
    """Measure, print, and write the numbers if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", default=None, help="numbers with commas (default: 0, 1 and one per core)")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    workers = sorted({0, 1, cores()}) if arguments.workers is None else [int(word) for word in arguments.workers.split(",")]
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        encoded = make(Path(name), arguments.images)
        found: dict[str, Any] = {
            "images": arguments.images,
            "mean_kilobytes": round(sum(map(len, encoded)) / len(encoded) / 1000, 1),
            "cores": cores(),
            "one_core_images_per_second": decoders(encoded),
            "largest_pixel_difference_pil_torchvision": largest_difference(encoded),
            "processor_time": processor_cost(Path(name)),
            "by_workers": {str(n): passes(Path(name), arguments.images, n, arguments.repeats) for n in workers},
            "environment": environment(),
        }
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
