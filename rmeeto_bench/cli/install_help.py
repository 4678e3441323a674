"""What `doctor` says about mamba-ssm: it is optional, and this is why its build fails."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import metadata, util

PACKAGES = ("mamba_ssm", "causal_conv1d")
# symptom, cause and remedy: by how often they are reported in the issue trackers of the packages and of models built on them
CAUSES = (
    ("ModuleNotFoundError: torch, while building", "pip builds apart from your torch: add --no-build-isolation"),
    ("nvcc not found, or NameError: bare_metal_version", "no CUDA toolkit: install the one your torch was built for"),
    ("CUDA mismatch", "nvcc and torch are of different CUDA versions: make them equal, by the toolkit or by the torch wheel"),
    (
        "undefined symbol, when importing",
        "a wheel for another torch: build it against yours (--no-binary :all:, --no-build-isolation)",
    ),
    ("the build never ends", "every architecture takes minutes: MAX_JOBS=4, or the Dockerfile's cuda13-mamba with ARCHS=90"),
    ("unexpected keyword bimamba_type", "Vim's fork and mamba-ssm share one name: pip uninstall mamba-ssm, then install one"),
    ("no kernel image is available", "built for other GPUs; V100 (sm_70) needs mamba-ssm 2.3.1 or older"),
)


def toolkit_version() -> str | None:
    """CUDA version of the nvcc on the path, or None."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    try:
        done = subprocess.run(
            [nvcc, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"release (\d+\.\d+)", done.stdout)
    return found.group(1) if found else None


def obstacles(torch_cuda: str | None) -> list[str]:
    """What stands in the way of a build on this machine, as far as it can be seen without trying."""
    found = []
    toolkit = toolkit_version()
    if torch_cuda is None:
        found.append("torch was built without CUDA: mamba-ssm cannot work with it")
    if toolkit is None:
        found.append("no nvcc on the path: a build needs the CUDA toolkit")
    elif torch_cuda is not None and toolkit.split(".")[0] != torch_cuda.split(".")[0]:
        found.append(f"nvcc is of CUDA {toolkit}, torch of {torch_cuda}: a build would stop")
    if shutil.which("g++") is None:
        found.append("no g++ on the path: a build needs a compiler")
    return found


def _missing() -> list[str]:
    return [name for name in PACKAGES if util.find_spec(name) is None]


def lines(torch_cuda: str | None, cuda_devices: int) -> list[str]:
    """The paragraph of `doctor`. `torch_cuda`: the CUDA version torch was built for; `cuda_devices`: GPUs torch sees."""
    missing = _missing()
    said = ["mamba-ssm: not needed. All models run on the tool's own kernels; it only adds the paper's kernels as a baseline."]
    if not missing:
        versions = ", ".join(f"{name} {metadata.version(name.replace('_', '-'))}" for name in PACKAGES)
        return [*said, f"  installed: {versions}; --backend mamba_ssm measures with it"]
    if cuda_devices == 0:
        return [*said, "  it needs an NVIDIA GPU, and torch sees none here"]
    said.append(f"  not installed: {', '.join(missing)}; pip install --no-build-isolation 'rmeeto-bench[mamba-ssm]' builds it")
    said += [f"  here: {obstacle}" for obstacle in obstacles(torch_cuda)]
    said.append("  if the build fails, the most frequent causes are:")
    return said + [f"    {symptom}: {remedy}" for symptom, remedy in CAUSES]
