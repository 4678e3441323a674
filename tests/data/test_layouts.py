"""One data set in every layout: the same images with the same labels, and every wrong labelling refused."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_images import CLASSES, PER_CLASS, Made, add_member, write_flat, write_folders, write_parquet, write_tars
from PIL import Image
from scipy.io import savemat

from rmeeto_bench.data.class_map import imagenet_synsets, read_class_map
from rmeeto_bench.data.find import Where, classes_of, find_data
from rmeeto_bench.data.find import find_source as find_classes_source
from rmeeto_bench.data.layouts.label_files import devkit_classes, read_labels
from rmeeto_bench.data.numbering import Classes
from rmeeto_bench.data.reading import EncodedSet, Reading
from rmeeto_bench.data.source import Source
from rmeeto_bench.errors import DataError

SMALL = (3, 32, 32)


def find_source(path: Path, num_classes: int, where: Where) -> Source:
    return find_classes_source(path, classes_of(num_classes, where), where)


def labels_of(path: Path, names: list[str], num_classes: int = 1000) -> list[int]:
    found = read_labels(path, names, Classes(num_classes))
    return [found.label_of[name] for name in names]


@pytest.fixture(scope="session")
def layouts(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Where]]:
    root = tmp_path_factory.mktemp("layouts")
    flat, labels, class_map = write_flat(made, root / "flat")
    return {
        "folders": (write_folders(made, root / "folders" / "val").parent, Where()),
        "flat": (flat, Where(labels, class_map)),
        "parquet": (write_parquet(made, root / "parquet"), Where()),
        "tar": (write_tars(made, root / "tar"), Where()),
    }


def _contents(source: Source) -> dict[bytes, int]:
    found = {source.read(i): int(label) for i, label in enumerate(source.labels)}
    assert len(found) == len(source.labels)
    return found


@pytest.mark.parametrize("layout", ["folders", "flat", "parquet", "tar"])
def test_every_layout_holds_the_same_two_thousand_labelled_images(
    layout: str, layouts: dict[str, tuple[Path, Where]], made: Made
) -> None:
    path, where = layouts[layout]
    source = find_source(path, CLASSES, where)
    assert not source.problems
    assert len(source.labels) == CLASSES * PER_CLASS == 2000
    assert _contents(source) == {data: int(label) for (_, _, data), label in zip(made.items, made.labels)}
    assert source.changed() is None


def test_decoded_batches_are_equal_in_all_layouts(layouts: dict[str, tuple[Path, Where]]) -> None:
    sums = {}
    for layout, (path, where) in layouts.items():
        data = find_data(path, shape=SMALL, num_classes=CLASSES, images=160, where=where, reading=Reading(workers=0))
        assert len(data) == 160
        batches = list(data.batches(64))
        assert [len(batch.labels) for batch in batches] == [64, 64, 32]
        labels = torch.cat([batch.labels for batch in batches])
        assert torch.bincount(labels).tolist() == [8] * CLASSES
        pixels = torch.cat([batch.pixels for batch in batches])
        sums[layout] = sorted(zip(labels.tolist(), pixels.double().sum((1, 2, 3)).tolist()))
    assert sums["folders"] == sums["flat"] == sums["parquet"]  # tar shards are interleaved: another subset
    assert [label for label, _ in sums["tar"]] == [label for label, _ in sums["folders"]]


def test_worker_processes_change_nothing(layouts: dict[str, tuple[Path, Where]]) -> None:
    path, where = layouts["parquet"]
    found = []
    for workers in (0, 2):
        data = find_data(path, shape=SMALL, num_classes=CLASSES, images=100, where=where, reading=Reading(workers=workers))
        found.append(list(data.batches(16)))
    assert [batch.start for batch in found[1]] == [0, 16, 32, 48, 64, 80, 96]
    for alone, helped in zip(*found, strict=True):
        assert torch.equal(alone.pixels, helped.pixels)
        assert torch.equal(alone.labels, helped.labels)


def test_only_the_validation_split_is_taken(layouts: dict[str, tuple[Path, Where]], tmp_path: Path) -> None:
    source = layouts["parquet"][0] / "data"
    (tmp_path / "train-00000.parquet").write_bytes(b"not read at all")
    for path in source.iterdir():
        os.link(path, tmp_path / path.name)
    assert len(find_source(tmp_path, CLASSES, Where()).labels) == 2000
    for path in tmp_path.glob("validation*"):
        path.unlink()
    with pytest.raises(DataError, match="no file of the validation split"):
        find_source(tmp_path, CLASSES, Where())


def _jpeg(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (value, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def _folders(root: Path, names: list[str], count: int = 1) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.jpg").write_bytes(_jpeg(i))
    return root


def test_synset_folders_get_imagenets_numbers_whichever_are_there(tmp_path: Path) -> None:
    synsets = list(imagenet_synsets())
    assert (len(synsets), synsets[0], synsets[-1]) == (1000, "n01440764", "n15075141")
    chosen = [synsets[7], synsets[300], synsets[999]]
    source = find_source(_folders(tmp_path, chosen), 1000, Where())
    assert source.labels.tolist() == [7, 300, 999]  # not 0, 1, 2
    assert {problem.reason for problem in source.problems} == {"class has no folder"}
    with pytest.raises(DataError, match=r"997 classes have no folder \(n01440764"):
        find_data(tmp_path, shape=SMALL, num_classes=1000, images=None)
    skipping = find_data(tmp_path, shape=SMALL, num_classes=1000, images=None, reading=Reading("skip", 0))
    assert len(skipping) == 3
    assert len(skipping.problems) == 997


def test_a_class_folder_too_many_is_named(tmp_path: Path) -> None:
    numbering = Classes(1000).number([*imagenet_synsets(), "n99999999"], "val", folders=True)
    assert "n99999999" not in numbering.label_of
    assert (numbering.unknown, numbering.missing) == (("n99999999",), ())


def test_a_subset_of_unknown_classes_is_never_renumbered(tmp_path: Path) -> None:
    folder = _folders(tmp_path, ["cat", "dog"])
    with pytest.raises(DataError, match="2 class folders, the model 10 classes"):
        find_source(folder, 10, Where())
    assert find_source(folder, 2, Where()).labels.tolist() == [0, 1]
    class_map = tmp_path / "map.txt"
    class_map.write_text("dog\ncat\n")
    assert find_source(folder, 2, Where(class_map=class_map)).labels.tolist() == [1, 0]


def test_numbered_folders_mean_their_numbers() -> None:
    names = [str(i) for i in range(11)]
    numbering = Classes(11).number(names, "val", folders=True)
    assert numbering.label_of == {name: int(name) for name in names}  # not 0, 1, 10, 2
    with pytest.raises(DataError, match="class folder 11"):
        Classes(11).number([*names[1:], "11"], "val", folders=True)


def test_a_flat_folder_without_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.jpg").write_bytes(_jpeg())
    with pytest.raises(DataError, match="no file of labels"):
        find_source(tmp_path / "val", 10, Where())


def _devkit(folder: Path, ids: list[int]) -> Path:
    """A devkit whose ids run against the alphabet, with one inner node of the hierarchy."""
    names = list(imagenet_synsets())[:5]
    kinds = [("ILSVRC2012_ID", float), ("WNID", object), ("num_children", float)]
    rows = [(5 - i, name, 0) for i, name in enumerate(names)] + [(6, "n00001740", 3)]
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})
    path = folder / "ILSVRC2012_validation_ground_truth.txt"
    path.write_text("".join(f"{i}\n" for i in ids))
    return path


def test_devkit_ids_are_translated_not_taken_for_class_numbers(tmp_path: Path) -> None:
    path = _devkit(tmp_path, [5, 4, 1])
    assert devkit_classes(tmp_path / "meta.mat") == {5 - i: name for i, name in enumerate(list(imagenet_synsets())[:5])}
    names = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2, 3)]
    assert labels_of(path, names) == [0, 1, 4]
    with pytest.raises(DataError, match="3 labels for 2 images"):
        labels_of(path, names[:2])
    path.write_text("5\n4\n77\n")
    with pytest.raises(DataError, match="id 77"):
        labels_of(path, names)
    (tmp_path / "meta.mat").unlink()
    with pytest.raises(DataError, match="not the model's numbers"):
        labels_of(path, names)


def test_the_devkit_beside_a_flat_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_devkit_t12" / "data").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    for i in (1, 2, 3):
        (tmp_path / "val" / f"ILSVRC2012_val_0000000{i}.JPEG").write_bytes(_jpeg(i))
    _devkit(tmp_path / "ILSVRC2012_devkit_t12" / "data", [5, 4, 1])
    assert find_source(tmp_path / "val", 1000, Where()).labels.tolist() == [0, 1, 4]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("b.JPEG 7\na.JPEG 3\n", [3, 7]),
        ("ImageId,PredictionString\na,n01443537 1 2 3 4\nb,n01440764 5 6 7 8\n", [1, 0]),
        ("n01443537\nn01440764\n", [1, 0]),
    ],
)
def test_label_files_of_every_form(text: str, labels: list[int], tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text(text)
    assert labels_of(tmp_path / "l.txt", ["a.JPEG", "b.JPEG"]) == labels


@pytest.mark.parametrize(
    ("text", "says"),
    [("a.JPEG quagga\nb.JPEG 1\n", "'quagga'"), ("", "0 labels for 2 images")],
)
def test_a_label_file_that_does_not_fit_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        labels_of(tmp_path / "l.txt", ["a.JPEG", "b.JPEG"])


@pytest.mark.parametrize(
    "text",
    [
        '{"cat": 0, "dog": 1}',
        "cat 0\ndog 1\n",
        "dog,1\ncat,0\n",
        "cat\ndog\n",
        '["cat", "dog"]',
        '{"0": "cat", "1": "dog"}',
        '{"0": ["n01", "cat"], "1": ["n02", "dog"]}',
        "0 cat\n1 dog\n",
        "\ufeffcat\r\ndog\r\n",
        "index;name\n0;cat\n1;dog\n",
        "cat a pet, small\ndog a pet, loud\n",
    ],
)
def test_class_maps_of_every_form(text: str, tmp_path: Path) -> None:
    (tmp_path / "map").write_text(text)
    found = read_class_map(tmp_path / "map", 2)
    assert [found.find(name) for name in ("cat", "dog", "Cat", "cow")] == [0, 1, 0, None]
    with pytest.raises(DataError, match="the model has 3"):
        read_class_map(tmp_path / "map", 3)


def test_labels_of_another_model_are_refused(layouts: dict[str, tuple[Path, Where]], made: Made, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names 20 classes, the model has 10"):
        find_source(layouts["parquet"][0], 10, Where())
    with pytest.raises(DataError, match="label 19, the model only 10 classes"):
        find_data(layouts["tar"][0], shape=SMALL, num_classes=10, images=None)
    same = replace(made, items=tuple((made.classes[0], file, data) for _, file, data in made.items[:60]))
    with pytest.raises(DataError, match="all 60 images the label 0"):
        find_data(write_tars(same, tmp_path / "same"), shape=SMALL, num_classes=CLASSES, images=None)


def test_a_tar_cut_short_is_noticed_wherever_the_cut_is(layouts: dict[str, tuple[Path, Where]], tmp_path: Path) -> None:
    whole = (layouts["tar"][0] / "val-000.tar").read_bytes()
    with tarfile.open(layouts["tar"][0] / "val-000.tar") as archive:
        members = archive.getmembers()
    border = members[11].offset
    for cut, read in ((border - 100, 5), (border, 5), (members[10].offset_data + 10, 5), (border + 100, 5)):
        path = tmp_path / f"val-{cut}.tar"
        path.write_bytes(whole[:cut])
        source = find_source(path, CLASSES, Where())
        assert len(source.labels) == read
        assert any("cut short" in problem.reason for problem in source.problems), cut
        assert all(str(path) in problem.path for problem in source.problems)


def test_tar_members_without_label_twice_or_linked(tmp_path: Path) -> None:
    for shard in ("a", "b"):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for key in ("x", "y"):
                add_member(archive, f"{key}.jpg", _jpeg(ord(key)))
                add_member(archive, f"{key}.json", b'{"label": 1}')
            add_member(archive, f"{shard}-unlabelled.jpg", _jpeg(9))
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    source = find_source(tmp_path, 3, Where())
    assert source.labels.tolist() == [1, 1]  # x and y of the first shard
    reasons = sorted(problem.reason for problem in source.problems)
    assert (
        reasons
        == ["image has no label"] * 2 + ["image is in the set twice and counts once"] * 2 + ["member is a link, not a file"] * 2
    )


def test_compressed_tars_and_foreign_files_are_refused(tmp_path: Path) -> None:
    for name, says in (("x.tar.gz", "compressed"), ("x.zip", "neither a .parquet nor a .tar")):
        (tmp_path / name).write_bytes(b"1")
        with pytest.raises(DataError, match=says):
            find_source(tmp_path / name, 3, Where())
    with pytest.raises(DataError, match="no folder and no file"):
        find_source(tmp_path / "missing", 3, Where())
    with pytest.raises(DataError, match="no file matches"):
        find_source(tmp_path / "*.tar", 3, Where())


def test_a_damaged_parquet_file_is_named(layouts: dict[str, tuple[Path, Where]], tmp_path: Path) -> None:
    for path in (layouts["parquet"][0] / "data").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first, second = sorted(tmp_path.iterdir())
    second.write_bytes(second.read_bytes()[:5000])
    source = find_source(tmp_path, CLASSES, Where())
    assert len(source.labels) == 1000
    assert [problem.path for problem in source.problems] == [str(second)]
    assert str(first) not in source.problems[0].reason


@pytest.mark.parametrize("layout", ["folders", "parquet", "tar"])
def test_data_that_changes_while_it_is_read_is_named(layout: str, made: Made, tmp_path: Path) -> None:
    few = replace(made, items=made.items[:6] + made.items[-6:], classes=(made.classes[0], made.classes[-1]))
    write = {"folders": write_folders, "parquet": write_parquet, "tar": write_tars}[layout]
    path = write(few, tmp_path / "set")
    data = find_data(path, shape=SMALL, num_classes=2, images=None, reading=Reading("skip", 0))
    assert isinstance(data, EncodedSet)
    batches = data.batches(4)
    assert (next(batches).labels >= 0).all()
    last = Path(data.source.locate(11).partition(":")[0])
    later = 4_000_000_000
    os.utime(last, (later, later))
    rest = [batch for batch in batches if batch.problems]
    assert "changed" in rest[-1].problems[-1].reason
    assert str(last) in rest[-1].problems[-1].path
    if layout == "folders":
        last.unlink()
        assert "vanished" in data.load(11, 1).problems[0][2]
    assert data.changed() is not None
