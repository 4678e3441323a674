"""Reading checkpoints of every wrapping in the field, without ever running code that is in them."""

from __future__ import annotations

import argparse
import hashlib
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rmeeto_bench.checkpoints.family import describe
from rmeeto_bench.errors import CheckpointError

WRAPPERS = ("model", "module", "state_dict")
EMA_WRAPPER = "model_ema"
PREFIXES = ("module.", "backbone.", "encoder.")
IGNORED = ("distill_head.",)  # VideoMamba's self-distillation leaves it in the file
METADATA_PREFIX = "rmeeto."


@dataclass(frozen=True)
class Provenance:
    """Where weights come from. `trained_r`: r of the (re-)training if the file says so; `args`: its command line."""

    path: Path
    sha256: str
    format: str
    wrapping: tuple[str, ...]
    trained_r: int | None = None
    epoch: int | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by upstream's names, on the CPU in their stored dtypes, and where they come from."""

    state_dict: dict[str, Tensor]
    provenance: Provenance


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _safe_globals() -> list[Any]:
    """What a training script's checkpoint may hold besides tensors: its arguments, and numpy scalars in its log."""
    numpy_types = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    return [argparse.Namespace, np.float64(0).__reduce__()[0], *numpy_types]


def _hostile_globals(path: Path) -> str:
    """The names a pickle wants beyond tensors, for the error message; reading them runs nothing."""
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (RuntimeError, ValueError, pickle.UnpicklingError, EOFError, KeyError, IndexError):
        return ""
    return ", ".join(sorted(wanted))


def _explain(path: Path, error: Exception) -> CheckpointError:
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return CheckpointError(f"{path} is empty; download it again")
    if head.startswith(b"version https://git-lfs"):
        return CheckpointError(
            f"{path} is a git-lfs pointer, not the file itself; run git lfs pull or download it from the hub"
        )
    if re.match(rb"\s*<[!?a-zA-Z]", head):
        return CheckpointError(f"{path} is a web page, not a checkpoint; use the download link, not the page's address")
    if isinstance(error, pickle.UnpicklingError):
        wanted = _hostile_globals(path)
        if wanted:
            return CheckpointError(
                f"{path} carries code ({wanted}) and is not loaded; convert it to safetensors where it was made"
            )
    return CheckpointError(f"{path} is damaged or no checkpoint ({type(error).__name__}); download it again")


def _refuse_bomb(path: Path) -> None:
    """torch stores a zip's members as they are; compressed ones may unfold to any size. Raises `CheckpointError`."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{path} holds compressed members, which torch never writes; it is not unpacked")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path} claims to hold more bytes than it has; it is damaged or made to fill the memory")


def _load_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            _refuse_bomb(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_safe_globals()):
            warnings.simplefilter("ignore", UserWarning)  # pickle protocols are no news to the person at the terminal
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except CheckpointError:
        raise
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
        raise _explain(path, error) from error
    except Exception as error:  # torch raises a dozen types for damaged bytes; each one means the same to the user
        raise _explain(path, error) from error


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, UnicodeDecodeError) as error:
        raise _explain(path, error) from error


def _unwrap(value: Any, path: Path, *, ema: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Follow the wrappers down to the tensors; the names followed are part of the provenance."""
    followed: list[str] = []
    if ema:
        if not isinstance(value, Mapping) or EMA_WRAPPER not in value:
            raise CheckpointError(f"{path} has no EMA weights ({EMA_WRAPPER}); load it without asking for them")
        value = value[EMA_WRAPPER]
        followed.append(EMA_WRAPPER)
    while isinstance(value, Mapping):
        name = next((name for name in WRAPPERS if isinstance(value.get(name), Mapping)), None)
        if name is None:
            break
        value = value[name]
        followed.append(name)
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not a dictionary of tensors; it is no checkpoint")
    return dict(value), tuple(followed)


def _clean(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Strip prefixes, leave out what no model here has, and refuse what is no finite tensor."""
    cleaned: dict[str, Tensor] = {}
    for key, value in state.items():
        name = str(key)
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if name.startswith(IGNORED) or not isinstance(value, Tensor):
            continue
        if value.is_floating_point() and not math.isfinite(float(value.float().abs().sum())):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; the training that wrote it diverged")
        cleaned[name] = value
    if not cleaned:
        raise CheckpointError(f"{path} holds no tensors; it is no checkpoint of a model")
    return cleaned


def _trained_r(args: Mapping[str, Any], metadata: Mapping[str, str]) -> int | None:
    given = metadata.get("r", args.get("num_prune"))
    return int(given) if isinstance(given, (int, str)) and re.fullmatch("[0-9]{1,6}", str(given)) else None


def read_checkpoint(path: str | Path, *, ema: bool = False) -> Checkpoint:
    """Read a .safetensors file or a torch file (zip or legacy, `weights_only` always) of any known wrapping.

    `ema` takes the averaged weights (Vim-B's published accuracy is theirs). Raises `CheckpointError` in one line for
    whatever is missing, damaged, unsafe or no checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint file in it")
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; give the path of a checkpoint file")
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        if ema:
            raise CheckpointError(f"{path} has no EMA weights; load it without asking for them")
        value, stored = _load_safetensors(path)
        metadata = {key.removeprefix(METADATA_PREFIX): text for key, text in stored.items() if key.startswith(METADATA_PREFIX)}
    else:
        value = _load_torch(path)
    state, wrapping = _unwrap(value, path, ema=ema)
    outer = value if isinstance(value, Mapping) else {}
    args = vars(outer["args"]) if isinstance(outer.get("args"), argparse.Namespace) else {}
    epoch = outer.get("epoch")
    provenance = Provenance(
        path=path,
        sha256=sha256(path),
        format=path.suffix.lstrip(".") if path.suffix == ".safetensors" else "torch",
        wrapping=wrapping,
        trained_r=_trained_r(args, metadata),
        epoch=epoch if isinstance(epoch, int) else None,
        args=args,
        metadata=metadata,
    )
    return Checkpoint(_clean(state, path), provenance)


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


SHAPE_HINTS = {
    "head.weight": "the number of classes differs; build the model with num_classes={0[0]}",
    "pos_embed": "it was made for {0[1]} tokens, the model has {1[1]}; build the model with the same img_size and patch_size",
    "patch_embed.proj.weight": "it takes other patches; an image model cannot load a video checkpoint, nor another patch size",
    "cls_token": "it is a model of width {0[2]}, this one has {1[2]}; take the checkpoint of this size",
}


def check_state(state: Mapping[str, Tensor], model: nn.Module, path: Path) -> None:
    """Raise `CheckpointError` naming the one mistake that explains a mismatch between file and model."""
    wanted = model.state_dict()
    for key in ("cls_token", "pos_embed", "patch_embed.proj.weight", "head.weight", *wanted):
        if key in wanted and key in state and wanted[key].shape != state[key].shape:
            found, own = tuple(state[key].shape), tuple(wanted[key].shape)
            hint = SHAPE_HINTS.get(key, "it belongs to another model").format(found, own)
            raise CheckpointError(f"{path} does not fit: {key} is {found}, the model wants {own}; {hint}")
    missing = [key for key in wanted if key not in state]
    if missing:
        raise CheckpointError(f"{path} lacks {_first(missing)}; it is {describe(state)}, or cut short")
    extra = [key for key in state if key not in wanted]
    if extra:
        raise CheckpointError(f"{path} also holds {_first(extra)}; it is {describe(state)}, larger than the model")


def load_checkpoint(model: nn.Module, path: str | Path, *, ema: bool = False) -> Provenance:
    """Load a checkpoint into `model`, every tensor in its place, converted to the model's dtype; returns where it came from.

    Raises `CheckpointError` in one line, naming the mistake (another size, other classes, another family).
    """
    checkpoint = read_checkpoint(path, ema=ema)
    check_state(checkpoint.state_dict, model, checkpoint.provenance.path)
    model.load_state_dict(checkpoint.state_dict, strict=True)
    return checkpoint.provenance
