"""Finding devices on a machine without a GPU, and what the driver says or doesn't."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rmeeto_bench.errors import UnavailableError, UsageError
from rmeeto_bench.measure.devices.cpu_telemetry import CpuTelemetry
from rmeeto_bench.measure.devices.cuda import CudaDevice
from rmeeto_bench.measure.devices.device import CpuDevice, find_devices
from rmeeto_bench.measure.devices.nvml import snapshot
from rmeeto_bench.measure.devices.telemetry import rejection

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


def test_a_snapshot_tells_settings_and_leaves_out_what_the_gpu_does_not_tell() -> None:
    nvml = FakeNvml()
    assert not {"ecc", "mig", "persistence", "vbios"} & set(snapshot("abc", nvml))  # this fake is an old driver
    nvml.nvmlDeviceGetEccMode = lambda _: [1, 1]  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetMigMode = lambda _: [0, 0]  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetPersistenceMode = lambda _: 1  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetPowerManagementLimitConstraints = lambda _: [100_000, 700_000]  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetCurrPcieLinkWidth = lambda _: 16  # type: ignore[attr-defined]
    found = snapshot("abc", nvml)
    assert (found["ecc"], found["mig"], found["persistence"], found["pcie_width"]) == (True, False, True, 16)
    assert (found["power_limit_least_w"], found["power_limit_most_w"]) == (100, 700)


def _proc_stat(path: Path, busy: int) -> Path:
    path.write_text(f"cpu  {busy} 0 0 99999 5 0 0 0 0 0\ncpu0 1 2 3\n")
    return path


def test_a_processor_says_how_much_others_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    stat = _proc_stat(tmp_path / "stat", 0)
    wall, own = iter([100.0, 102.0] * 2), iter([10.0, 12.0] * 2)
    monkeypatch.setattr("rmeeto_bench.measure.devices.cpu_telemetry.time.perf_counter", lambda: next(wall))
    monkeypatch.setattr("rmeeto_bench.measure.devices.cpu_telemetry.time.process_time", lambda: next(own))
    telemetry = CpuTelemetry(1, stat=stat, cores=2)
    telemetry.before_block()
    _proc_stat(stat, 3 * ticks)  # 3 s of processor time in 2 s, 2 of them ours: half a core for others
    seen = telemetry.after_block()
    assert (seen["foreign_cores"], seen["contended"], rejection(seen)) == (0.5, False, None)
    _proc_stat(stat, 0)
    telemetry.before_block()
    _proc_stat(stat, 5 * ticks)
    seen = telemetry.after_block()
    assert (seen["foreign_cores"], seen["contended"]) == (1.5, True)
    assert rejection(seen) == ("CONTENDED", "other programs used 1.5 processor cores")


def test_a_system_without_proc_stat_still_measures(tmp_path: Path) -> None:
    telemetry = CpuTelemetry(1, stat=tmp_path / "missing")
    telemetry.before_block()
    assert "contended" not in telemetry.after_block()


def test_sim_is_one_of_each_gpu_in_the_paper() -> None:
    devices = find_devices("sim")
    columns = {device.profile.paper_column for device in devices}  # type: ignore[attr-defined]
    assert len(devices) == 6
    assert columns == {"V100", "A4000", "RTX 3090", "RTX 4090", "A100", "H100"}
    assert [device.id for device in find_devices("sim:h100-sxm,rtx4090")] == ["sim:h100-sxm", "sim:rtx4090"]
    with pytest.raises(UsageError, match="no profile 'h1000' to simulate; there are .*h100-sxm"):
        find_devices("sim:h1000")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_events_time_a_block() -> None:
    device = CudaDevice(0)
    x = torch.randn(2048, 2048, device=device.torch_device)
    seconds, wall = device.time_block(lambda: x @ x, 50)
    assert 0 < seconds <= wall
    assert find_devices(device.id.removeprefix("cuda:"))[0].id == device.id


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_nvml_watches_a_real_block() -> None:
    device = CudaDevice(0)
    x = torch.randn(4096, 4096, device=device.torch_device)
    telemetry = device.telemetry()
    try:
        telemetry.before_block()
        device.time_block(lambda: x @ x, 1)
        telemetry.after_block()  # the first block waits for the sampling process to start
        telemetry.before_block()
        seconds, _ = device.time_block(lambda: x @ x, 300)
        seen = telemetry.after_block()
    finally:
        telemetry.close()
    assert "unavailable" not in seen
    assert seen["samples"] >= 1 + int(seconds / 0.4)
    assert seen["sm_mhz_mean"] > 100
    assert seen["power_w"] > 1
    assert seen["reserved_delta_bytes"] == 0
