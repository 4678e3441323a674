"""Silence is a fault: every reader counts the odd member among good ones, and says so in one line."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fresh import Done, commands
from made_images import add_member
from made_videos import still
from PIL import Image

from rmeeto_bench.data.find import Where, find_data
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.data.layouts.video import read_frames
from rmeeto_bench.data.preprocessing import Preprocessing, UnreadableImageError
from rmeeto_bench.data.reading import Reading
from rmeeto_bench.errors import DataError
from rmeeto_bench.retrain.training_sets import find_training

NAMES = ("cat", "dog")
SHAPE = (3, 28, 28)


def png(value: int = 0, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28), (value, 0, 0)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def folders(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    for name in names:
        for i in range(3):
            write(root / name / f"{i}.png", png(i))
    return root


def flat(root: Path, listed: str) -> Where:
    for i in range(3):
        write(root / f"{i}.png", png(i))
    write(root.parent / "list", listed)
    return Where(labels=root.parent / "list")


def tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in {"g.jpg": png(7), "g.cls": b"1", **members}.items():
            add_member(archive, name, data)


def parquet(path: Path, labels: list[object], names: list[str] | None = None, **more: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": [{"bytes": png(i), "path": "x"} for i in range(len(labels))], "label": labels, **more})
    if names:
        info = {"info": {"features": {"label": {"names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path)


def dead_link(d: Path) -> None:
    (folders(d) / "cat" / "x.png").symlink_to("/nowhere/x.png")


def odd(path: str, data: bytes = b"1") -> Callable[[Path], None]:
    return lambda d: write(folders(d) / path, data)


def given(d: Path) -> Where:
    write(d.parent / "map", "dog\ncat\n")
    return Where(class_map=d.parent / "map")


def labelled(listed: str) -> Callable[[Path], Where]:
    return lambda d: flat(d, listed)


def videos(listed: str) -> Callable[[Path], None]:
    def prepare(d: Path) -> None:
        for i in range(2):
            write(d / f"{i}.mp4", b"a video")
        write(d / "val.csv", listed)

    return prepare


GOOD = "0.png 0\n1.png 1\n2.png 0\n"
# ruff: noqa: E501 (a line per odd member reads best)
# What is odd, how the data set is made, and what is said of it.
ODD: dict[str, tuple[Callable[[Path], Where | None], str]] = {
    "dead link": (dead_link, "6 of 7 used, 1 left out: 1 link leads nowhere ("),
    "other format": (odd("dog/x.gif"), "6 of 7 used, 1 left out: 1 image is of a format"),
    "stray image": (odd("x.png"), "6 of 7 used, 1 left out: 1 image lies in no class folder"),
    "other file": (odd("dog/Thumbs.db"), "passed over: 1 other file is no image by its name"),
    "hidden file": (odd("dog/._0.png"), "passed over: 1 hidden file or folder"),
    "alphabet": (lambda d: folders(d) and None, "are numbered by the alphabet, cat, dog"),
    "unknown class": (lambda d: folders(d, ("cat", "dog", "emu")) and given(d), "6 of 9 used, 3 left out: 3 images lie in folders of no"),
    "listed and gone": (labelled(GOOD + "9.png 1\n"), "3 of 4 used, 1 left out: 1 listed file is not there (9.png)"),
    "not listed": (labelled("0.png 0\n1.png 1\n"), "2 of 3 used, 1 left out: 1 image has no label (2.png)"),
    "listed twice": (labelled(GOOD + "0.png 0\n"), "passed over: 1 line names a file again"),
    "two labels": (labelled(GOOD + "0.png 1\n"), "gives 0.png the classes 0 and 1"),
    "three columns": (labelled("0.png,0,1\n1.png,1,0\n2.png,0,0\n"), "more than one could be the label"),
    "titled column": (labelled("fold;path;class\n1;a/0.png;0\n0;a/1.png;1\n1;a/2.png;0\n"), "the labels are column 'class' of the 3"),
    "in order": (labelled("0\n1\n0\n"), "paired with the images in the order of their names, 0.png, 1.png"),
    "numbers and a map": (lambda d: [flat(d, GOOD), given(d)] and Where(d.parent / "list", d.parent / "map"), "--class-map was not needed"),
    "tar label alone": (lambda d: tar(d / "v.tar", {"x.cls": b"1"}), "1 of 2 used, 1 left out: 1 label has no image"),
    "tar without label": (lambda d: tar(d / "v.tar", {"x.png": png()}), "1 of 2 used, 1 left out: 1 image has no label"),
    "tar other": (lambda d: tar(d / "v.tar", {"g.txt": b"words"}), "passed over: 1 other file is no image"),
    "tar name": (lambda d: tar(d / "v.tar", {"x.jpg": png(), "x.cls": b"zebu"}), "has the class 'zebu'"),
    "tar and labels": (lambda d: tar(d / "v.tar", {}) or Where(labels=d / "none"), "--labels"),
    "parquet own names": (lambda d: parquet(d / "v.parquet", [0, 1], ["emu", "gnu"]), "keep its own numbers, emu, gnu"),
    "parquet columns": (lambda d: parquet(d / "v.parquet", [0, 1], cls=[1, 0]), "its column label, not cls"),
    "parquet null": (lambda d: parquet(d / "v.parquet", [0, None]), "1 of 2 rows have no label"),
    "parquet splits": (lambda d: parquet(d / "val.parquet", [0, 1]) or parquet(d / "train.parquet", [0]), "1 of 2 .parquet files"),
    "parquet file gone": (lambda d: write(d / "b.parquet", "PAR1") or parquet(d / "a.parquet", [0, 1]), "incomplete: 1 damaged"),
    "video gone": (videos("0.mp4,0\n1.mp4,1\n2.mp4,1\n"), "2 of 3 used, 1 left out: 1 listed file is not there"),
    "video twice": (videos("0.mp4,0\n1.mp4,1\n1.mp4,1\n"), "passed over: 1 line names a file again"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ODD))
def test_an_odd_member_is_counted_and_said(name: str, tmp_path: Path) -> None:
    prepare, says = ODD[name]
    root = tmp_path / "set"
    root.mkdir()
    where = prepare(root)
    shape = (3, 4, 28, 28) if "video" in name else SHAPE
    wanted = {"shape": shape, "num_classes": 2, "images": None, "where": where}
    try:
        found = find_data(root, **wanted, reading=Reading("skip", 0))
        said = found.notes
        if any(problem.skipped for problem in found.problems):
            with pytest.raises(DataError, match="--on-error skip"):
                find_data(root, **wanted)
    except DataError as error:
        said = (str(error),)
    assert any(says in line for line in said), said


def test_class_numbers_follow_names_in_every_layout(tmp_path: Path) -> None:
    where = given(folders(tmp_path / "folders"))
    tar(tmp_path / "t.tar", {"x.jpg": png(1), "x.cls": b"dog", "y.jpg": png(2), "y.json": b'{"label": "cat"}', "g.cls": b"Cat"})
    parquet(tmp_path / "p.parquet", [0, 1], ["cat", "dog"])
    parquet(tmp_path / "s.parquet", ["cat", "dog"])
    flat(tmp_path / "f", "0.png cat\n1.png dog\n2.png cat\n")
    wanted = {"folders": [1, 1, 1, 0, 0, 0], "t.tar": [1, 0, 1], "p.parquet": [1, 0], "s.parquet": [1, 0], "f": [1, 0, 1]}
    for name, labels in wanted.items():
        listed = Where(tmp_path / "list", where.class_map) if name == "f" else where
        found = find_data(tmp_path / name, shape=SHAPE, num_classes=2, images=None, where=listed, reading=Reading("skip", 0))
        assert [label for batch in found.batches(8) for label in batch.labels.tolist()] == labels, name


@pytest.mark.parametrize(
    ("val", "says"),
    [(("cat",), None), (("cat", "dog", "emu"), "6 of 9 used, 3 left out"), (("emu", "gnu"), "none of its classes")],
)
def test_a_validation_set_has_the_numbers_of_the_training_set(val: tuple[str, ...], says: str | None, tmp_path: Path) -> None:
    folders(tmp_path / "train", ("ant", *NAMES))
    folders(tmp_path / "val", val)
    if says is not None:
        with pytest.raises(DataError, match=says):
            find_training(tmp_path, SHAPE)
        return
    _, found = find_training(tmp_path, SHAPE)
    assert found.labels.tolist() == [1, 1, 1]  # cat, though it is the first folder here
    assert "passed over: 2 classes have no folder (ant, dog)" in found.notes[0]


def test_a_parquet_row_may_name_a_file(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(9))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": None, "path": name} for name in ("a.png", "gone.png")]
    pq.write_table(pa.table({"image": pa.array(rows, kind), "label": [0, 1]}), tmp_path / "p.parquet")
    found = find_data(tmp_path / "p.parquet", shape=SHAPE, num_classes=2, images=None, reading=Reading("skip", 0))
    (batch,) = found.batches(4)
    assert batch.labels.tolist() == [0, -1]
    assert "gone.png, is not there" in batch.problems[0].reason


def test_a_tar_header_of_any_length_stays_small(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**33
    tar(tmp_path / "v.tar", {})
    data = (tmp_path / "v.tar").read_bytes()
    with (tmp_path / "v.tar").open("wb") as file:
        file.write(data[:2048] + info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**33 + 4096)  # sparse: the length is there, the bytes are not
    found = find_data(tmp_path / "v.tar", shape=SHAPE, num_classes=2, images=None, reading=Reading("skip", 0))
    assert len(found) == 1
    assert "a header of 8589934592 bytes" in found.problems[0].reason


def test_frames_that_an_edit_list_hides_are_not_missing() -> None:
    data = bytearray(still(40))
    entry = data.find(b"elst") + 16  # the first edit's start in the media, of 512 ticks a frame
    struct.pack_into(">i", data, entry, 5 * 512)
    with av.open(io.BytesIO(data)) as made:
        assert sum(packet.is_discard for packet in made.demux(video=0)) == 5
    seen: list[int] = []
    count, frames = read_frames(bytes(data), lambda count: seen.append(count) or range(count), np.asarray)
    assert (count, len(frames), seen) == (35, 35, [35])


def test_long_thin_images_are_refused() -> None:
    buffer = io.BytesIO()
    Image.new("L", (60_000, 1)).save(buffer, "PNG")
    with pytest.raises(UnreadableImageError, match="too long and thin"):
        Preprocessing.imagenet(224).read(buffer.getvalue())


def test_eval_reads_a_folder_as_people_have_it(tmp_path: Path) -> None:
    """One process, one folder: its name is a pattern, its classes are Fashion-MNIST's in other spellings, and among 40 good
    images are nested ones, odd names, a time in the future, a palette with transparency and links that lead nowhere."""
    data = fashion_mnist.load("test")
    root = tmp_path / "val[28] ?"
    names = [name.replace("/", "_").replace(" ", "-").lower() for name in fashion_mnist.CLASSES]
    for i in range(40):
        place = root / names[int(data.labels[i])] / ("deeper" if i % 3 == 0 else "")
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(data.pixels[i, 0].numpy())
        options = {"transparency": bytes(range(256))} if i == 1 else {}
        (image.convert("P") if i == 1 else image).save(place / f"i [{i:02d}]*.png", **options)
    files = sorted(root.rglob("*.png"))
    os.utime(files[3], (time.time() + 36_000,) * 2)
    os.rename(os.fsencode(files[5]), os.fsencode(files[5].parent) + b"/bild_\xe4.png")
    (root / "bag" / "\x1b[31mred.png").symlink_to("/nowhere/x.png")
    words = "-m rmeeto_bench eval --r 0 --gpus none --workers 0 --out o --on-error skip --json record.json --data"
    command = [sys.executable, *words.split(), root.name]
    environment = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="ascii", check=False)
    assert done.returncode == 0, done.stderr
    assert " d points " in done.stdout  # the capital delta, for a terminal that has none
    assert "val[28] ?: 40 of 41 used, 1 left out: 1 link leads nowhere (" in done.stderr
    assert "/bag/\\x1b[31mred.png)" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["arms"][0]["top1"]["value"] > 80


BROKEN = b"no image at all"


def broken_parquet(d: Path) -> None:
    parquet(d / "train.parquet", [0])
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": data, "path": None} for data in (png(1), png(2), BROKEN)]
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": [0, 1, 0]}), d / "val.parquet")


# What is made in `set`, more flags, what is said of the odd one, images used of those that are left, one of which is broken.
THROUGH_A_PROCESS: dict[str, tuple[Callable[[Path], object], list[str], str, int]] = {
    "list": (
        lambda d: write(d / "3.png", BROKEN) or flat(d, GOOD + "3.png 1\n9.png 1\n"),
        ["--labels", "list/list"],
        "4 of 5 used, 1 left out: 1 listed file is not there (9.png)",
        4,
    ),
    "tar": (
        lambda d: tar(d / "v.tar", {"x.png": png(), "y.jpg": BROKEN, "y.cls": b"0"}),
        [],
        "2 of 3 used, 1 left out: 1 image has no label",
        2,
    ),
    "parquet": (broken_parquet, [], "1 of 2 .parquet files", 3),
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    """The place of all layouts, and what `eval` said of each, one after the other in one process."""
    root, words = tmp_path_factory.mktemp("layouts"), []
    for layout, (prepare, more, _, _) in THROUGH_A_PROCESS.items():
        (root / layout / "set").mkdir(parents=True)
        prepare(root / layout / "set")
        flags = ["--gpus", "none", "--r", "0", "--workers", "0", "--data", f"{layout}/set", "--on-error", "skip", *more]
        words.append(["eval", *flags, "--out", f"{layout}/o", "--json", f"{layout}/record.json"])
    return root, dict(zip(THROUGH_A_PROCESS, commands(*words, cwd=root, columns=200), strict=True))


@pytest.mark.parametrize("layout", list(THROUGH_A_PROCESS))
def test_each_layout_says_in_a_process_what_it_left_out(layout: str, evaluated: tuple[Path, dict[str, Done]]) -> None:
    (root, all_done), (_, _, says, count) = evaluated, THROUGH_A_PROCESS[layout]
    done = all_done[layout]
    assert done.code == 0, done.err
    said = " ".join((done.out + done.err).split())
    assert says in said, said
    record = json.loads((root / layout / "record.json").read_text(encoding="utf-8"))
    (data,) = record["data"].values()
    left = [problem for problem in data["problems"] if "no image" in problem["reason"]]
    assert len(left) == 1, data
    assert data["images"] == count - 1


def test_a_list_of_videos_says_in_a_process_of_its_own_what_it_left_out(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write(tmp_path / "clips" / f"{part}.mp4", still(20))
        write(tmp_path / "clips" / f"{part}.csv", f"{part}.mp4,0\n{part}_gone.mp4,1\n")
    words = [
        "retrain",
        "--on-error",
        "skip",
        "--model",
        "videomamba_tiny_k400_f8",
        "--data",
        "clips",
        "--init",
        "none",
        "--workers",
        "0",
        "--out",
        "o",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "rmeeto_bench", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr  # one video is no batch
    for part in ("train", "val"):
        assert f"1 of 2 used, 1 left out: 1 listed file is not there (clips/{part}_gone.mp4)" in done.stderr, done.stderr
    assert "do not fill one step" in done.stderr
