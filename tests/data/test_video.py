"""Videos: the frames and crops of the specification, decoded by PyAV; corrupt ones named and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_videos import video
from torch import Tensor, nn

from rmeeto_bench.bench.plan.plan import Cell
from rmeeto_bench.bench.session.accuracy_pass import Pass, one_pass
from rmeeto_bench.bench.session.built_arm import BuiltArm, Setting
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.data.find import Where, classes_of, find_data
from rmeeto_bench.data.layouts.video import VideoViews, crop_offsets, frame_indices, random_frame_indices
from rmeeto_bench.data.layouts.video_list import load_list
from rmeeto_bench.data.numbering import Classes
from rmeeto_bench.data.preprocessing import UnreadableImageError
from rmeeto_bench.data.reading import EncodedSet, Reading
from rmeeto_bench.errors import DataError
from rmeeto_bench.measure.devices.device import CpuDevice
from rmeeto_bench.reduction.config import ReductionConfig


def test_frames_of_the_specification() -> None:
    """300 frames: segments of 37.375; clip c starts int(37.375 / 5 * (c + 1)) = 7, 14, 22, 29 later."""
    base = [0, 37, 75, 112, 150, 187, 224, 262]  # round(37.375 i)
    for clip, shift in enumerate((7, 14, 22, 29)):
        assert frame_indices(300, clip, clips=4, frames=8) == [min(299, i + shift) for i in base]
    assert frame_indices(300, 0, clips=1, frames=8) == [i + 18 for i in base]  # int(37.375 / 2): validation in training
    assert frame_indices(1, 3, clips=4, frames=8) == [0] * 8


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2000), st.integers(0, 3))
def test_frames_exist_and_ascend(count: int, clip: int) -> None:
    chosen = frame_indices(count, clip, clips=4, frames=8)
    assert len(chosen) == 8
    assert chosen == sorted(chosen)
    assert 0 <= chosen[0] <= chosen[-1] < count


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 16), st.integers(0, 2**32))
def test_training_takes_a_random_frame_of_each_segment(count: int, frames: int, seed: int) -> None:
    chosen = random_frame_indices(count, frames, np.random.default_rng(seed))
    assert len(chosen) == frames
    assert all(int(count * i / frames) <= place <= count * (i + 1) / frames for i, place in enumerate(chosen))
    assert max(chosen) < count


def test_training_frames_differ_from_time_to_time() -> None:
    generator = np.random.default_rng(0)
    seen = np.array([random_frame_indices(80, 8, generator) for _ in range(400)])
    assert all(set(seen[:, i]) == set(range(10 * i, 10 * i + 10)) for i in range(8))


def test_crops_reach_from_end_to_end() -> None:
    assert crop_offsets(398, 224, 3) == [0, 87, 174]
    assert crop_offsets(224, 224, 3) == [0, 0, 0]
    assert crop_offsets(300, 224, 1) == [38]


def test_views_hold_the_right_frames_and_crops() -> None:
    views = VideoViews(size=32, frames=4)
    pixels, unusual = views.read(video(40, colour=40))
    assert unusual is None
    assert pixels.shape == (12, 3, 4, 32, 32)
    for clip in range(4):
        left, middle, right = pixels[3 * clip : 3 * clip + 3].float()
        for t, index in enumerate(frame_indices(40, clip, clips=4, frames=4)):
            assert right[:, t, :, -4:].mean() == pytest.approx(60 + 3 * index, abs=3)
            assert left[:, t, :, :4].mean() == pytest.approx(20 + 3 * index, abs=3)
            assert left[:, t].mean() < middle[:, t].mean() < right[:, t].mean()


def test_a_short_video_repeats_frames_and_is_reported() -> None:
    pixels, unusual = VideoViews(size=32, frames=8).read(video(3))
    assert unusual == "only 3 frames"
    assert pixels.shape[2] == 8


@pytest.mark.parametrize(
    ("data", "says"), [(b"", "empty"), (b"no video at all" * 50, "no video"), (video(30)[:2000], "no video|cut short")]
)
def test_a_corrupt_video_says_why(data: bytes, says: str) -> None:
    with pytest.raises(UnreadableImageError, match=says):
        VideoViews(size=32).read(data)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    (tmp_path / "val").mkdir()
    lines = []
    for i in range(6):
        (tmp_path / "val" / f"{i}.mp4").write_bytes(video(10, 10 * i) if i != 3 else video(30)[:2000])
        lines.append(f"{i}.mp4,{i % 2}")
    (tmp_path / "val.csv").write_text("\n".join([*lines, "gone.mp4,1", "0.mp4,0"]) + "\n")
    return tmp_path


SHAPE = {"shape": (3, 4, 32, 32), "num_classes": 2, "images": None}


class Mean(nn.Module):
    """Says class 1 for views that are brighter on the right."""

    def forward(self, clips: Tensor) -> Tensor:
        assert clips.shape[1:] == (3, 4, 32, 32)
        bright = clips[..., 16:].mean((1, 2, 3, 4)) - clips[..., :16].mean((1, 2, 3, 4))
        return torch.stack([-bright, bright], 1) * 5


def test_views_are_averaged_and_corrupt_videos_counted(clips: Path, tmp_path: Path) -> None:
    data = find_data(clips, **SHAPE, reading=Reading("skip", 0))
    assert isinstance(data, EncodedSet)
    assert data.name == "val.csv, 6 of 7 videos"
    assert sorted((Path(p.path).name, p.reason.split(",")[0]) for p in data.problems) == [
        ("gone.mp4", "listed file is not there"),
        ("val.csv", "line names a file again"),
    ]
    model = Mean()
    fake = BuiltArm(Cell("mean", ReductionConfig(), 0.0, 0.0), model, "random", None, model)  # type: ignore[arg-type]
    with Store.create(tmp_path / "run") as store:
        results = one_pass([fake], data, Pass(Setting(CpuDevice(), "fp32", 24, "auto"), store))
    assert results.labels.tolist() == [0, 1, 0, 0, 1]  # video 3 is corrupt
    batch = data.load(1, 1)
    views = data.preprocessing.normalisation.clips(batch.pixels)[0]
    expected = model(views).softmax(-1).mean(0)
    assert results.best["mean/r0"][1, 0] == int(expected.argmax())
    assert float(results.confidence["mean/r0"][1]) == pytest.approx(float(expected.max()), abs=1e-3)


def test_by_default_a_missing_video_stops(clips: Path) -> None:
    with pytest.raises(DataError, match=r"6 of 7 used, 1 left out: 1 listed file is not there \(.*gone\.mp4\)"):
        find_data(clips, **SHAPE)


def test_lists_and_class_folders(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "some dir").mkdir()
    for name in ("some dir/x y.mp4", "z.mp4"):
        (tmp_path / name).write_bytes(b"a video")
    (tmp_path / "map.txt").write_text("archery\nbowling\nchess\nzumba\n")
    named = classes_of(4, Where(class_map=tmp_path / "map.txt"))
    for text, classes in (
        ("some dir/x y.mp4 3\nz.mp4 1\n", Classes(4)),
        ('"some dir/x y.mp4","3"\r\n"z.mp4","1"\r\n', Classes(4)),
        ("\ufefflabel;path;fps\n3;some dir/x y.mp4;25\n1;z.mp4;30\n", Classes(4)),
        ("some dir/x y.mp4,zumba\nz.mp4,Bowling\n", named),
    ):
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        found = load_list(tmp_path / "a.txt", classes)
        assert dict(zip(found.paths, found.labels.tolist())) == {"some dir/x y.mp4": 3, "z.mp4": 1}
    for text in ("", "z.mp4\n", "z.mp4,dog\n"):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(DataError, match=r"path,label|column of classes|none of the first|'dog'"):
            load_list(tmp_path / "a.txt", Classes(2))
    for i, name in enumerate(("archery", "zumba")):
        (tmp_path / "folders" / name).mkdir(parents=True)
        (tmp_path / "folders" / name / "v.mp4").write_bytes((clips / "val" / f"{i}.mp4").read_bytes())
    data = find_data(tmp_path / "folders", **SHAPE)
    assert [batch.labels.tolist() for batch in data.batches(8)] == [[0, 1]]
