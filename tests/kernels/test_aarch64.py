"""The kernels of aarch64 wheels: cross-compiled and run under qemu, against float64. Parity only, no speed."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rmeeto_bench.errors import UnavailableError
from rmeeto_bench.kernels.add_norm import reference as add_norm
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.causal_conv1d import reference as conv
from rmeeto_bench.kernels.merge import reference as merge
from rmeeto_bench.kernels.native.compiling import compile_library, file_name
from rmeeto_bench.kernels.selective_scan import reference as scan

CROSS, QEMU, LIBRARIES = "aarch64-linux-gnu-g++", "qemu-aarch64", Path("/usr/aarch64-linux-gnu")
DRIVER = Path(__file__).parent / "aarch64_driver.cpp"
BATCH, LENGTH, CHANNELS, STATES, R, THREADS = 2, 11, 20, 16, 3, 3


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the kernels as an aarch64 machine would."""
    for tool, package in ((CROSS, "g++-aarch64-linux-gnu"), (QEMU, "qemu-user")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt install {package}")
    folder = tmp_path_factory.mktemp("aarch64")
    library = folder / file_name("neon", "aarch64")
    compile_library([CROSS], "neon", library, "aarch64")
    program = folder / "driver"
    subprocess.run([CROSS, "-std=c++17", "-O1", DRIVER, library, "-o", program], check=True, stdin=subprocess.DEVNULL)
    return [QEMU, "-L", str(LIBRARIES), str(program)]


class Results:
    """What the driver wrote, taken piece by piece."""

    def __init__(self, data: bytes) -> None:
        self.left = torch.from_numpy(np.frombuffer(data, np.float32).copy())

    def take(self, *shape: int) -> Tensor:
        count = int(np.prod(shape))
        taken, self.left = self.left[:count].view(shape), self.left[count:]
        return taken


def close(found: Tensor, right: Tensor, name: str) -> None:
    error = float((found.double() - right).norm() / right.norm())
    assert error < 1e-5, f"{name} is off by {error:.1e}"


@pytest.mark.slow
def test_every_kernel_agrees_with_the_reference_on_aarch64(driver: list[str]) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows, image = (2, BATCH, LENGTH), (BATCH, LENGTH, CHANNELS)
    operands = {
        "u": draw(*rows, CHANNELS), "dt": draw(*rows, CHANNELS), "A": -draw(2, CHANNELS, STATES).exp(),
        "B": draw(*rows, STATES), "C": draw(*rows, STATES), "D": draw(2, CHANNELS), "z": draw(*image),
        "dt_bias": draw(2, CHANNELS),
    }  # fmt: skip
    dout, taps, hidden, residual, weight = draw(*image), draw(2, CHANNELS, 4), draw(*image), draw(*image), draw(CHANNELS)
    given = b"".join(t.numpy().tobytes() for t in (*operands.values(), dout, taps, hidden, residual, weight))
    sizes = [str(value) for value in (BATCH, LENGTH, CHANNELS, STATES, R, THREADS)]
    done = subprocess.run([*driver, *sizes], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = Results(done.stdout)
    assert found.take(1).item() == 4, "NEON has four lanes"

    exact = {name: value.double().requires_grad_() for name, value in operands.items()}
    out = scan.selective_scan(ScanArguments(**exact, scale=0.5))
    close(found.take(*image), out.detach(), "scan")
    gradients = torch.autograd.grad(out, list(exact.values()), dout.double())
    for name, right in zip(exact, gradients):
        per_image = name in ("A", "D", "dt_bias")
        taken = found.take(BATCH, *right.shape).sum(0) if per_image else found.take(*right.shape)
        close(taken, right, f"gradient of {name}")

    x, w, b = (t.double().requires_grad_() for t in (operands["z"], taps, operands["dt_bias"]))
    u = conv.causal_conv1d(x, w, b)
    close(found.take(*rows, CHANNELS), u.detach(), "convolution")
    dx, dw, db = torch.autograd.grad(u, [x, w, b], operands["u"].double())
    close(found.take(*image), dx, "convolution's gradient")
    close(found.take(BATCH, 2, CHANNELS, 5).sum(0), torch.cat([dw, db[..., None]], -1), "taps' gradient")

    h, res, gain = (t.double().requires_grad_() for t in (hidden, residual, weight))
    normed, total = add_norm.add_norm(h, res, gain, 1e-5)
    close(found.take(*image), normed.detach(), "norm")
    dh, dgain = torch.autograd.grad([normed, total], [h, gain], [dout.double(), operands["z"].double()])
    close(found.take(*image), dh, "norm's gradient")
    close(found.take(THREADS, CHANNELS).sum(0), dgain, "gain's gradient")

    plan = merge.match(hidden.double(), LENGTH // 2, (LENGTH - R) // 2, R)
    for name, right in (("survivors", plan.survivors), ("merged", plan.merged), ("slots", plan.slots)):
        assert torch.equal(found.take(*right.shape).long(), right.long()), name
    for taken, right in zip(["out", "total", "size"], merge.merge_add_norm((h, res), None, plan, gain, 1e-5)):
        close(found.take(*right.shape), right.detach(), f"merge's {taken}")
    assert len(found.left) == 0


def test_a_compiler_for_another_processor_is_told_from_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(CROSS) is None or platform.machine() != "x86_64":
        pytest.skip(f"needs {CROSS} on x86_64: apt install g++-aarch64-linux-gnu")
    monkeypatch.setattr("rmeeto_bench.kernels.native.compiling.SOURCES", ("tasks.cpp",))  # one is enough, and quick
    with pytest.raises(UnavailableError, match="builds for another kind of processor than x86_64"):
        compile_library([CROSS], "sse2", tmp_path / "kernels.so")
