"""The training state on disk: complete files only, the last two kept, never unpickled beyond tensors and plain values."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from rmeeto_bench.errors import CheckpointError, UnavailableError

KEPT = 2
PATTERN = "step_*.pt"


def save_state(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `step_<step>.pt` whole or not at all, then remove all but the last two; `UnavailableError` on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.pt"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".step.")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except (OSError, RuntimeError) as error:
        Path(temporary).unlink(missing_ok=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or isinstance(error.__context__, OSError)
        if not full and not isinstance(error, RuntimeError):
            raise
        raise UnavailableError(
            f"cannot write {path} ({error}); free some disk space, then continue with --resume from the last state"
        ) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    for old in sorted(folder.glob(PATTERN))[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def state_files(folder: Path) -> list[Path]:
    """The states in a folder, the newest first."""
    return sorted(folder.glob(PATTERN), reverse=True)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest readable state, or None where there is none yet. A damaged file gives way to the one before it.

    Raises `CheckpointError` if there are files and none can be read.
    """
    files = state_files(folder)
    for path in files:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # torch raises a dozen types for damaged bytes; the state before is as good
            continue
    if files:
        raise CheckpointError(f"no state in {folder} can be read; remove the folder to start again")
    return None


def remove_states(folder: Path) -> None:
    """Once a run is finished its weights and log say everything."""
    for path in folder.glob(PATTERN):
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
