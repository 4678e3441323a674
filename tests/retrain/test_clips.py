"""Training on clips: sampled at random, augmented alike in all frames, read from lists or folders; broken videos named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_videos import still, video

from rmeeto_bench.checkpoints.reader import read_checkpoint
from rmeeto_bench.checkpoints.writer import save_checkpoint
from rmeeto_bench.cli.main import main
from rmeeto_bench.data.reading import SKIP, STOP, Reading
from rmeeto_bench.errors import DataError
from rmeeto_bench.models.zoo import create_model
from rmeeto_bench.retrain.augment import BatchMix
from rmeeto_bench.retrain.distributed import World
from rmeeto_bench.retrain.feed import Feed, validation_batches
from rmeeto_bench.retrain.presets import preset
from rmeeto_bench.retrain.recipe import Recipe, changed
from rmeeto_bench.retrain.session import Files, Training, build
from rmeeto_bench.retrain.training_sets import LabelledSet, find_training

MODEL = "videomamba_tiny_k400_f8"
SHAPE = (3, 8, 32, 32)
CPU = World(torch.device("cpu"))


def recipe(**changes: object) -> Recipe:
    """`video_paper` on clips of 32 pixels, 4 videos in two copies to a step; `changes` are fields with __ for the dot."""
    small = {"img_size": 32, "optimisation.batch_size": 8, "optimisation.accumulation": 1}
    return changed(preset("video_paper"), {**small, **{name.replace("__", "."): value for name, value in changes.items()}})


def lists(folder: Path, count: int = 8, contents: bytes | None = None) -> Path:
    """train.csv and val.csv with `count` videos each, of two classes, in train/ and val/."""
    for part in ("train", "val"):
        (folder / part).mkdir(parents=True)
        for i in range(count):
            (folder / part / f"{i}.mp4").write_bytes(contents or video(12, 40 * (i % 2)))
        (folder / f"{part}.csv").write_text("".join(f"{i}.mp4,{i % 2}\n" for i in range(count)))
    return folder


def training(folder: Path, on_error: str = STOP) -> LabelledSet:
    return find_training(folder, SHAPE, Reading(on_error, 0))[0]


def test_all_frames_of_a_clip_are_augmented_alike_and_copies_are_not(tmp_path: Path) -> None:
    feed = Feed(training(lists(tmp_path, 4, still(16))), SHAPE, recipe(), CPU)
    [(clips, labels)] = feed.batches(0)
    assert tuple(clips.shape) == (8, *SHAPE)
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4
    assert labels[::2].tolist() == labels[1::2].tolist()
    moves = (clips - clips[:, :, :1]).abs().mean((1, 2, 3, 4))
    spread = clips.std((1, 2, 3, 4))
    assert float((moves / spread.clamp(min=0.05)).max()) < 0.1  # what is left is the encoder's, not the augmentation's
    differ = (clips[::2] - clips[1::2]).abs().mean((1, 2, 3, 4))
    assert float(differ.min()) > 0.1


def test_clips_are_the_same_for_any_number_of_processes_and_workers(tmp_path: Path) -> None:
    data = training(lists(tmp_path))
    alone = [clips for clips, _ in Feed(data, SHAPE, recipe(), CPU).batches(0)]
    half = recipe(optimisation__batch_size=4)
    for rank in (0, 1):
        place = World(torch.device("cpu"), rank, 2)
        parts = [clips for clips, _ in Feed(data, SHAPE, half, place, workers=rank).batches(0)]
        for whole, part in zip(alone, parts, strict=True):
            assert torch.equal(part, whole.view(4, 2, *SHAPE)[rank::2].flatten(0, 1))


def test_frames_come_in_order_from_the_whole_video(tmp_path: Path) -> None:
    plain = {"augmentation__crop": "none", "augmentation__flip": False, "augmentation__randaugment": "none"}
    [(clips, _)] = Feed(training(lists(tmp_path, 4, video(40))), SHAPE, recipe(**plain), CPU).batches(0)
    brightness = clips.mean((1, 3, 4))  # video(40) grows lighter by 3 of 255 a frame
    frames = ((brightness * 0.226 + 0.449) * 255 - 60) / 3
    assert torch.equal(clips[::2], clips[1::2])
    for taken in frames[::2]:
        assert all(5 * i - 1.5 <= float(frame) <= 5 * i + 6.5 for i, frame in enumerate(taken))
    assert float(frames[::2].std(0).max()) > 0.5  # another draw for every video


def test_erasing_and_mixing_do_the_same_to_all_frames() -> None:
    clips = torch.ones(4, *SHAPE) * torch.arange(1, 5).view(4, 1, 1, 1, 1)
    torch.manual_seed(0)
    np.random.seed(0)
    erased, _ = BatchMix(recipe(augmentation__erasing=1.0, augmentation__mixup=0.0, augmentation__cutmix=0.0), 2, CPU.device)(
        clips.clone(), torch.tensor([0, 1, 0, 1])
    )
    gone = (erased != clips).all(1)  # [B, T, H, W]
    assert bool((gone == gone[:, :1]).all())
    assert bool(gone.any((1, 2, 3)).any())
    mixed, targets = BatchMix(recipe(augmentation__erasing=0.0), 2, CPU.device)(clips.clone(), torch.tensor([0, 1, 0, 1]))
    assert torch.equal(mixed, mixed[:, :, :1].expand_as(mixed))
    assert torch.allclose(targets.sum(1), torch.ones(4))


def test_videos_by_class_and_validation_on_one_clip(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for label, name in enumerate(("archery", "zumba")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                (tmp_path / part / name / f"{i}.mp4").write_bytes(video(9, 40 * label))
    train, validation = find_training(tmp_path, SHAPE, Reading(STOP, 0))
    assert (len(train), train.num_classes, len(validation)) == (6, 2, 6)
    [(clips, labels)] = validation_batches(validation, SHAPE, CPU, 8)
    assert tuple(clips.shape) == (6, *SHAPE)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_broken_video_stops_the_training_or_is_replaced_and_named(tmp_path: Path) -> None:
    folder = lists(tmp_path)
    (folder / "train" / "3.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"cannot read video .*3.mp4 .*--on-error skip"):
        list(Feed(training(folder), SHAPE, recipe(), CPU).batches(0))
    feed = Feed(training(folder, SKIP), SHAPE, recipe(), CPU)
    assert sum(len(labels) for _, labels in feed.batches(0)) == 16
    assert [Path(path).name for path in feed.unreadable] == ["3.mp4"]
    for path in (folder / "train").iterdir():
        path.write_bytes(b"no video")
    with pytest.raises(DataError, match="in a row cannot be read"):
        list(Feed(training(folder, SKIP), SHAPE, recipe(), CPU).batches(0))


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"train\.csv and val\.csv"):
        find_training(None, SHAPE)
    with pytest.raises(DataError, match=r"neither train\.csv nor train/"):
        find_training(tmp_path, SHAPE)
    folder = lists(tmp_path / "videos")
    (folder / "train.csv").write_text((folder / "train.csv").read_text() + "gone.mp4,1\n")
    with pytest.raises(DataError, match=r"gone\.mp4.*--on-error skip"):
        training(folder)
    assert len(training(folder, SKIP)) == 8
    assert main(["retrain", "--model", MODEL, "--preset", "video_paper", "--out", str(tmp_path / "out")]) == 2
    assert "train.csv" in capsys.readouterr().err


def test_an_image_models_weights_start_a_model_of_clips(tmp_path: Path) -> None:
    image = create_model("videomamba_tiny", img_size=32, num_classes=5)
    path = tmp_path / "image.safetensors"
    save_checkpoint(image.state_dict(), path, metadata={})
    session = Training(MODEL, replace(recipe(), start="baseline"), None, str(path), Files(tmp_path))
    clip = build(session, 4, 2).state_dict()
    kernel = "patch_embed.proj.weight"
    assert torch.equal(clip[kernel][:, :, 0], image.state_dict()[kernel])
    assert torch.equal(clip["layers.3.mixer.A_log"], image.state_dict()["layers.3.mixer.A_log"])
    assert clip["head.weight"].shape == (2, 192)


def test_the_command_trains_on_clips_and_names_what_it_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lists(tmp_path / "videos", 4)
    (folder / "train" / "1.mp4").write_bytes(b"")
    command = ["retrain", "--model", MODEL, "--preset", "video_paper", "--data", str(folder), "--init", "none", "-r", "4"]
    small = ["--set", "img_size=32", "--batch-size", "4", "--accumulation", "1", "--epochs", "1", "--workers", "0"]
    out = tmp_path / "out"
    assert main([*command, *small, "--on-error", "skip", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "skipped: 1" in said.err
    assert "1.mp4" in said.err
    head, *_, tail = [json.loads(line) for line in (out / f"{MODEL}_r4.jsonl").read_text().splitlines()]
    assert head["recipe"]["augmentation"]["copies"] == 2
    assert head["training_images"] == 4
    assert tail["n_images"] == 4
    assert [Path(path).name for path in tail["unreadable"]] == ["1.mp4"]
    trained = read_checkpoint(out / f"{MODEL}_r4.safetensors").state_dict
    assert trained["temporal_pos_embedding"].shape == (1, 8, 192)
    assert float(trained["temporal_pos_embedding"].abs().max()) > 0
