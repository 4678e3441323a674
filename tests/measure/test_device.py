"""Finding devices on a machine without a GPU, and what the driver says or doesn't."""

from types import SimpleNamespace

import pytest
import torch

from rmeeto_bench.errors import UnavailableError
from rmeeto_bench.measure.device import CpuDevice, CudaDevice, find_devices
from rmeeto_bench.measure.nvml import snapshot

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


def test_none_is_the_cpu() -> None:
    (device,) = find_devices("none")
    assert (device.id, device.kind) == ("cpu", "cpu")
    assert device.name
    assert device.details()["threads"] >= 1


@without_gpu
def test_all_falls_back_to_the_cpu_but_a_named_gpu_is_an_error() -> None:
    assert [device.kind for device in find_devices("all")] == ["cpu"]
    with pytest.raises(UnavailableError, match="no GPU 3: this machine has no CUDA GPU.*--gpus none"):
        find_devices("3")
    with pytest.raises(UnavailableError, match="GPU-1234"):
        find_devices("GPU-1234")


def test_a_block_calls_the_step_as_often_as_asked() -> None:
    calls = []
    seconds, wall = CpuDevice().time_block(lambda: calls.append(1), 5)
    assert len(calls) == 5
    assert 0 <= seconds <= wall


class FakeNvml:
    """As much of pynvml as is read; `missing` makes the driver absent."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, *, missing: bool = False) -> None:
        self.missing, self.open = missing, 0

    def nvmlInit(self) -> None:
        if self.missing:
            raise self.NVMLError("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != "GPU-abc":
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetClockInfo(self, _: str, kind: int) -> int:
        return {1: 1980, 2: 3201}[kind]

    def nvmlDeviceGetPowerUsage(self, _: str) -> int:
        return 350_000

    def nvmlDeviceGetEnforcedPowerLimit(self, _: str) -> int:
        return 700_000

    def nvmlDeviceGetTemperature(self, _: str, __: int) -> int:
        return 41

    def nvmlDeviceGetComputeRunningProcesses(self, _: str) -> list:
        return [SimpleNamespace(pid=77)]


def test_a_snapshot_reads_and_closes() -> None:
    nvml = FakeNvml()
    found = snapshot("abc", nvml)
    assert found["power_w"] == 350
    assert found["compute_pids"] == [77]
    assert nvml.open == 0


def test_a_snapshot_without_driver_or_gpu_gives_the_reason() -> None:
    assert "Not Found" in snapshot("abc", FakeNvml(missing=True))["unavailable"]
    nvml = FakeNvml()
    assert snapshot("other", nvml) == {"unavailable": "Not Found"}
    assert nvml.open == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_events_time_a_block() -> None:
    device = CudaDevice(0)
    x = torch.randn(2048, 2048, device=device.torch_device)
    seconds, wall = device.time_block(lambda: x @ x, 50)
    assert 0 < seconds <= wall
    assert find_devices(device.id.removeprefix("cuda:"))[0].id == device.id
