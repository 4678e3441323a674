#!/usr/bin/env python3
"""nvcc for the architectures in NVCC_ARCHS ("80 90") instead of those on the command line.

mamba-ssm and causal-conv1d ask for a fixed list in their setup.py. torch calls what PYTORCH_NVCC names in nvcc's place; this
leaves out every -gencode and -arch it is given and adds its own, with PTX of the newest for GPUs that come later.
"""

from __future__ import annotations

import os
import sys


def rewrite(words: list[str], archs: list[str]) -> list[str]:
    """nvcc's arguments with its architectures replaced. Raises `SystemExit` for a list that names none."""
    if not archs or not all(arch.rstrip("af").isdigit() for arch in archs):
        raise SystemExit(f"nvcc-archs: NVCC_ARCHS is a list like '80 86 90', not {' '.join(archs)!r}")
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("-gencode", "--generate-code", "-arch", "--gpu-architecture", "-code", "--gpu-code"):
            skip = True  # its value comes next
        elif not word.startswith(("-gencode=", "--generate-code=", "-arch=", "--gpu-architecture=", "-code=", "--gpu-code=")):
            kept.append(word)
    if not any(word in ("-V", "--version") for word in words):
        for arch in archs:
            kept += ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
        newest = max(archs, key=lambda arch: int(arch.rstrip("af")))
        kept += ["-gencode", f"arch=compute_{newest},code=compute_{newest}"]
    return kept


if __name__ == "__main__":
    nvcc = os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "nvcc")
    os.execv(nvcc, [nvcc, *rewrite(sys.argv[1:], os.environ.get("NVCC_ARCHS", "").replace(";", " ").split())])
