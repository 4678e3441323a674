"""Models at other image sizes than their weights', and Vim's models with overlapping patches."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import rmeeto_bench as rb
from rmeeto_bench.checkpoints.positions import resize_pos_embed
from rmeeto_bench.checkpoints.writer import save_checkpoint
from rmeeto_bench.errors import CheckpointError, UsageError
from rmeeto_bench.models.sizes import at_sizes, config

SMALL = {"embed_dim": 16, "depth": 2}


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.75, which torch's bicubic is made of."""
    a, x = -0.75, np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def weights(old: int, new: int) -> np.ndarray:
    """[new, old]: what each old cell gives to each new one along one side, with pixel centres at halves and edges repeated."""
    found = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            found[i, min(max(j, 0), old - 1)] += cubic(np.array(centre - j))
    return found


@pytest.mark.parametrize(("old", "new"), [(14, 24), (14, 32), (14, 7), (27, 47)])
@pytest.mark.parametrize("cls_first", [False, True])
def test_positions_are_resized_as_a_plain_bicubic_of_the_patch_grid(old: int, new: int, cls_first: bool) -> None:
    table = torch.randn(1, old**2 + 1, 3, generator=torch.Generator().manual_seed(old), dtype=torch.float64)
    middle = 0 if cls_first else old**2 // 2
    grid = np.delete(table[0].numpy(), middle, axis=0).reshape(old, old, 3)
    right = np.einsum("xi,yj,ijc->xyc", weights(old, new), weights(old, new), grid).reshape(new**2, 3)
    right = np.insert(right, 0 if cls_first else new**2 // 2, table[0, middle].numpy(), axis=0)
    found = resize_pos_embed(table, new**2, cls_first=cls_first)
    assert np.abs(found[0].numpy() - right).max() < 1e-9


@torch.inference_mode()
def test_overlapping_patches_are_those_that_a_window_meets_every_eight_pixels() -> None:
    model = rb.create_model("vim_tiny_plus", **SMALL)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    kernel = model.patch_embed.proj.weight.flatten(1)  # [C, 3 * 16 * 16]
    tokens = model.patch_embed(image)[0, 0]
    assert tokens.shape == (27 * 27, 16)
    for row, column in ((0, 0), (3, 26), (26, 11)):
        window = image[0, :, 8 * row : 8 * row + 16, 8 * column : 8 * column + 16]
        right = kernel @ window.flatten() + model.patch_embed.proj.bias
        assert torch.allclose(tokens[27 * row + column], right, atol=1e-4)
    assert model.config.cls_position == 364
    assert model.pos_embed.shape[1] == 730


def test_parameters_of_the_stride_8_models() -> None:
    """Vim's own plus 533 positions more."""
    for name, more in (("vim_tiny", 533 * 192), ("vim_small", 533 * 384)):
        with torch.device("meta"):
            plain, plus = (sum(p.numel() for p in rb.create_model(n).parameters()) for n in (name, f"{name}_plus"))
        assert plus == plain + more


@torch.inference_mode()
def test_a_model_at_another_size_takes_its_own_weights_with_resized_positions(tmp_path: Path) -> None:
    path = save_checkpoint(rb.create_model("vim_tiny", **SMALL).state_dict(), tmp_path / "w.safetensors", metadata={})
    with pytest.warns(UserWarning, match="made for 224 px are resized to 384 px"):
        large = rb.create_model("vim_tiny_384", checkpoint=path, **SMALL)
    loaded = rb.create_model("vim_tiny", img_size=384, r=33, **SMALL)
    with pytest.warns(UserWarning, match="resized"):
        rb.load_checkpoint(loaded, path)
    assert torch.equal(loaded.pos_embed, large.pos_embed)
    small = rb.create_model("vim_tiny", checkpoint=path, **SMALL)
    assert torch.equal(large.pos_embed, resize_pos_embed(small.pos_embed, 24 * 24))
    assert large(torch.zeros(1, 3, 384, 384)).shape == (1, 1000)
    assert large.config.num_tokens == 577


def test_weights_of_overlapping_patches_are_not_taken_for_a_larger_image(tmp_path: Path) -> None:
    path = save_checkpoint(rb.create_model("vim_tiny_plus", **SMALL).state_dict(), tmp_path / "plus.safetensors", metadata={})
    with pytest.raises(CheckpointError, match="730 positions .* take vim_tiny_plus"):
        rb.create_model("vim_tiny", checkpoint=path, **SMALL)
    with pytest.warns(UserWarning, match="730 positions .* take vim_tiny_plus"):
        rb.create_model("vim_tiny_432", checkpoint=path, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rb.create_model("vim_tiny_plus", checkpoint=path, **SMALL)


def test_sizes_in_names() -> None:
    assert at_sizes(["vim_tiny", "deit_small"], [224, 384]) == ("vim_tiny", "vim_tiny_384", "deit_small", "deit_small_384")
    assert at_sizes(["vim_tiny_224", "vim_tiny_0384", "vim_tiny"]) == ("vim_tiny", "vim_tiny_384")
    with pytest.raises(UsageError, match="leave out --img-size"):
        at_sizes(["vim_tiny_384"], [224])
    with pytest.raises(UsageError, match="tokens; 131,072 are the most"):
        config("vim_nano_100000")
    assert config("vim_tiny_384") == config("vim_tiny", img_size=384)
    assert config("vim_tiny_224") == config("vim_tiny")
    for name, says in (("vim_tiny_225", "224 or 240"), ("vim_tiny_8", "16 or 32"), ("vim_tiny_plus_230", "224 or 232")):
        with pytest.raises(UsageError, match=says):
            config(name)
    with pytest.raises(UsageError, match="unknown model"):
        config("vim_huge_384")
