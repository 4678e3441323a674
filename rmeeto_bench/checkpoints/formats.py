"""Open a checkpoint file by its content, not its name, without running code that is in it."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import pathlib
import pickle
import re
import types
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rmeeto_bench.errors import CheckpointError

HEAD = 512  # bytes that tell one format from another
LARGEST_INDEX = 1 << 24  # bytes of a list of shards
REMEDY = "save model.state_dict() where it was made, best as safetensors"
ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}
OTHERS = {b"\x89HDF": "an HDF5 file (Keras)", b"GGUF": "a GGUF file", b"\x93NUMPY": "a numpy array", b"%PDF": "a PDF file"}


class Opened(NamedTuple):
    """`value`: what the file holds; `metadata`: texts in a safetensors header; `format`: safetensors, torch, or sharded."""

    value: Any
    metadata: dict[str, str]
    format: str


def open_file(path: Path) -> Opened:
    """Read a safetensors file, a torch file (`weights_only` always) or an index of shards. Raises `CheckpointError`."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    _refuse_by_head(path, head)
    if _is_safetensors(head) or (path.suffix == ".safetensors" and not _is_torch(head)):
        return Opened(*_load_safetensors(path), "safetensors")
    if head.lstrip().startswith(b"{"):
        return _load_shards(path)
    return Opened(_load_torch(path), {}, "torch")


def _is_torch(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"\x80"))


def _is_safetensors(head: bytes) -> bool:
    """Eight bytes of a header's length (which may begin like a pickle, but is never above 100 MB), then JSON."""
    return head[8:9] == b"{" and head[5:8] == bytes(3)


def _refuse_by_head(path: Path, head: bytes) -> None:
    if not head:
        raise CheckpointError(f"{path} is empty; download it again")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a git-lfs pointer, not the file itself; run git lfs pull or download it from the hub")
    if re.match(rb"\s*<[!?a-zA-Z]", head):
        raise CheckpointError(f"{path} is a web page, not a checkpoint; use the download link, not the page's address")
    for mark, name in ARCHIVES.items():
        if head.startswith(mark):
            raise CheckpointError(f"{path} is compressed ({name}); unpack it and give the checkpoint in it")
    for mark, name in OTHERS.items():
        if head.startswith(mark):
            raise CheckpointError(f"{path} is {name}, not a torch or safetensors file; {REMEDY}")
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{path} is a tar archive; unpack it and give the checkpoint in it")


def _as_list(*_: Any) -> list[Any]:
    """Stands in for a deque, to which torch's safe unpickler does not append."""
    return []


def _safe_globals() -> list[Any]:
    """What a training script's checkpoint may hold besides tensors: arguments, paths, dates, containers, numpy's values.

    None of them does anything when it is made.
    """
    scalar = np.float64(0).__reduce__()[0]
    array = np.zeros(1).__reduce__()[0]
    values = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDSU"}
    numbers = {np.dtype(code).type for code in "?bBhHiIlLqQefdFD"}
    older: list[Any] = [
        (_as_list, "collections.deque"),
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]
    older += [(array, "numpy.core.multiarray._reconstruct"), (array, "numpy._core.multiarray._reconstruct")]
    paths: list[Any] = [pathlib.PurePosixPath, pathlib.PureWindowsPath]
    # A path of another system cannot be made here, and what it is called moved between versions of Python.
    for module in ("pathlib", "pathlib._local"):
        for kind in ("Path", "PosixPath", "PurePath", "PurePosixPath"):
            paths.append((pathlib.PurePosixPath, f"{module}.{kind}"))
        paths += [(pathlib.PureWindowsPath, f"{module}.{kind}") for kind in ("WindowsPath", "PureWindowsPath")]
    plain: list[Any] = [
        argparse.Namespace, types.SimpleNamespace, collections.defaultdict, collections.OrderedDict, collections.Counter,
        datetime.datetime, datetime.date, datetime.timedelta, list, dict, set, frozenset, tuple, int, float,
        str, bool, complex,
    ]  # fmt: skip
    return [*plain, *paths, scalar, array, np.dtype, np.ndarray, *values, *numbers, *older]


def _hostile_globals(path: Path) -> str:
    """The names that a pickle would import besides tensors, for the error message; reading them runs nothing."""
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            wanted = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # this only words a message; damaged bytes raise a dozen types
        return ""
    return ", ".join(sorted(name[:80] for name in wanted)[:5])


def _explain(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, pickle.UnpicklingError):
        wanted = _hostile_globals(path)
        if wanted:
            return CheckpointError(f"{path} carries code ({wanted}) and is not loaded; {REMEDY}")
    return CheckpointError(f"{path} is damaged or no checkpoint ({type(error).__name__}); download it again")


def _check_archive(path: Path) -> None:
    """Refuse zip files that torch.save did not write: it stores members as they are, so compressed ones may unfold to any
    size. Raises `CheckpointError`."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = [member.filename for member in members]
    if any(re.search(r"(^|/)(constants\.pkl$|code/)", name) for name in names):
        raise CheckpointError(f"{path} is a TorchScript program: code, which is not loaded; {REMEDY}")
    if any(name.endswith(".npy") for name in names):
        raise CheckpointError(f"{path} holds numpy arrays (.npz), not a torch file; {REMEDY}")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{path} holds compressed members, which torch never writes; it is not unpacked")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path} claims to hold more bytes than it has; it is damaged or made to fill the memory")
    inside = next((name for name in names if name.endswith((".pth", ".pt", ".safetensors", ".ckpt"))), None)
    if inside is not None:
        raise CheckpointError(f"{path} is a zip archive with {inside[:80]} in it; unpack it and give that file")


def _load_torch(path: Path) -> Any:
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_archive(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_safe_globals()):
            warnings.simplefilter("ignore")  # the user cannot act on warnings about pickle protocols
            if path.suffix == ".safetensors":  # a path so named torch would hand to safetensors
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
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


def _load_shards(path: Path) -> Opened:
    """All shards of an index (`*.index.json`); they lie beside it, nowhere else."""
    try:
        if path.stat().st_size > LARGEST_INDEX:
            raise CheckpointError(f"{path} is larger than any list of shards; it is not read")
        told = json.loads(path.read_text(encoding="utf-8"))
        weight_map = told["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is JSON, not a checkpoint; give the file of weights beside it") from error
    if not names:
        raise CheckpointError(f"{path} is an index that names no shards, so it holds no tensors; download it again")
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in names:
        shard = path.parent / name
        if Path(name).name != name or name.endswith(".json"):
            raise CheckpointError(f"{path} names the shard {name[:80]!r}, which is no file beside it; it was tampered with")
        if not shard.is_file():
            raise CheckpointError(f"{path} names the shard {name[:80]}, which is not beside it; download it too")
        opened = open_file(shard)
        if not isinstance(opened.value, Mapping) or tensors.keys() & opened.value.keys():
            raise CheckpointError(f"{shard} is no shard of {path.name}; download both again")
        tensors |= opened.value
        metadata |= opened.metadata
    if set(tensors) != set(weight_map):
        odd = sorted(set(tensors) ^ set(weight_map))[0]
        raise CheckpointError(f"{path} and its shards do not agree about {odd[:80]}; download them again")
    return Opened(tensors, metadata, f"sharded, {len(names)} files")
