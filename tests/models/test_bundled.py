"""The weights that ship: all there, small, of the model and r they say, and as accurate as recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import rmeeto_bench as rb
from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.checkpoints.reader import read_checkpoint
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.retrain.loop import top1

RS = (0, 5, 10, 11, 13, 15, 20)
PACKAGE = Path(rb.__file__).parent


@pytest.mark.parametrize("r", RS)
def test_each_ratio_has_its_weights_with_their_history(r: int) -> None:
    path = bundled_checkpoint("vim_nano", r)
    assert path is not None
    assert read_checkpoint(path).provenance.trained_r == r
    log = Path(__file__).parents[2] / "results" / "vim_nano" / f"vim_nano_r{r}.jsonl"
    last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
    assert last["n_images"] == 10_000
    model = rb.create_model("vim_nano", r=r, checkpoint="bundled")
    test = fashion_mnist.load("test").subset(200)
    with torch.inference_mode():
        assert top1(model, ((batch.images, batch.labels) for batch in test.batches(200))) == pytest.approx(
            last["top1"], abs=4.0
        )


def test_what_ships_is_small() -> None:
    size = sum(path.stat().st_size for path in (PACKAGE / "bundled").rglob("*") if path.is_file())
    assert size <= 12 * 2**20
