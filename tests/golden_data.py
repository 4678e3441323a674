"""Where the parity data lies: the compact copy beside this file, or the full set next to the checkout if it is there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

COMPACT = Path(__file__).parent / "golden"
FULL = Path(__file__).resolve().parents[2] / "shared" / "golden"


def folder(stem: str) -> Path:
    """The folder to read `<stem>.json` from: the full set where it exists."""
    return FULL if (FULL / f"{stem}.json").is_file() else COMPACT


@cache
def text(stem: str) -> Any:
    """The parsed `<stem>.json`."""
    return json.loads((folder(stem) / f"{stem}.json").read_text(encoding="utf-8"))


def weights(kind: str) -> dict[str, Tensor]:
    """A model's recorded weights. Upstream's Vim and VideoMamba of one width got the same ones, so the copy keeps one file."""
    own = (folder(kind) / f"{kind}_weights.safetensors").is_file()
    return tensors(f"{kind}_weights", kind) if own else tensors("vim_d32_weights", "vim_d32")


@cache
def tensors(stem: str, beside: str) -> dict[str, Tensor]:
    """`<stem>.safetensors` from the folder that `<beside>.json` is read from."""
    return load_file(folder(beside) / f"{stem}.safetensors")
