"""A run with accuracy that processes of its own wrote is taken up again, and what cannot be taken up is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from programs import copied

from rmeeto_bench.cli.main import main


@pytest.fixture(scope="module")
def runs(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, `v`, and the run `a` on them, which may be changed."""
    return copied(measured, tmp_path_factory.mktemp("doors") / "place")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "vim_tiny"), "--model vim_nano, not vim_tiny"),
        (("--ratios", "0,0.31"), "other ratios"),
        (("--r", "0,5"), "--r 0,20, not 0,5"),
        (("--data", "nosuch"), "--data"),
        (("--precision", "bf16"), "--precision auto, not bf16"),
        (("--seed", "3"), "--seed 0, not 3"),
    ],
)
def test_resuming_something_else_is_refused_and_says_what_differs(
    words: tuple[str, str], says: str, runs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    before = (runs / "a" / "manifest.json").read_bytes()
    assert main(["--resume", "--out", "a", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert (runs / "a" / "manifest.json").read_bytes() == before


def test_resuming_from_another_folder_finds_the_data_and_notices_other_images(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["resume", str(runs / "a")]) == 0
    capsys.readouterr()
    changed = next((runs / "v").rglob("*.png"))
    Image.effect_noise((28, 28), 90).save(changed)
    assert main(["resume", str(runs / "a")]) == 2
    error = capsys.readouterr().err
    assert changed.name in error
    assert "is not the image it was" in error
