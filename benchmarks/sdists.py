"""Building mamba-ssm and causal-conv1d from their source distributions on a GPU machine without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch


def build_sdists(folder: Path, limit: float) -> dict[str, str]:
    """Build and put on the path what lies there, for this GPU's architecture only. Name -> how that went."""
    target, found, end = Path(tempfile.mkdtemp(prefix="gpu_check-")), {}, time.monotonic() + limit
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    environment = os.environ | {
        **{"TORCH_CUDA_ARCH_LIST": f"{major}.{minor}", "MAX_JOBS": str(os.cpu_count()), "PYTHONPATH": str(target)},
        **{"CAUSAL_CONV1D_FORCE_BUILD": "TRUE", "MAMBA_FORCE_BUILD": "TRUE"},
    }
    words = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--target", str(target)]
    for name in ("causal_conv1d", "mamba_ssm"):
        archives = sorted(folder.glob(f"{name}-*.tar.gz"))
        if not archives:
            found[name] = f"no {name}-*.tar.gz in {folder}"
            continue
        command = [sys.executable, "-m", "pip", "install", *words, str(archives[-1])]
        try:
            left = max(1.0, end - time.monotonic())
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            found[name] = f"{archives[-1].name}: not built within {limit:.0f} s"
            continue
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        found[name] = f"{archives[-1].name}: " + ("built" if done.returncode == 0 else f"failed: {said}")
    sys.path.insert(1, str(target))
    print("sdists", json.dumps(found, indent=1), flush=True)
    return found
