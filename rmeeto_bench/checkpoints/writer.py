"""Writing checkpoints: safetensors with the settings in the header, complete or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rmeeto_bench.checkpoints.reader import METADATA_PREFIX
from rmeeto_bench.errors import UnavailableError


def save_checkpoint(
    state_dict: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str], dtype: torch.dtype | None = None
) -> Path:
    """Write tensors (in `dtype` if given) and `rmeeto.*` metadata (model, r, recipe, ...) to a .safetensors file.

    The file appears complete under its name or not at all. Raises `UnavailableError` when the disk is full.
    """
    tensors = {key: value.detach().cpu().to(dtype or value.dtype).contiguous() for key, value in state_dict.items()}
    header = {METADATA_PREFIX + key: value for key, value in metadata.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=header)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except (OSError, SafetensorError) as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno != errno.ENOSPC:
            raise
        raise UnavailableError(f"cannot write {path} ({error}); free some disk space and start again") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
