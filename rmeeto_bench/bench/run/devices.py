"""Which devices a plan means, and what the manifest keeps of them.

A separate process (`python -m rmeeto_bench.bench.run.devices SPEC`) looks up the GPUs. Asking CUDA in the parent would leave a
context on every GPU, and the sessions would report it as a foreign program.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace

from rmeeto_bench import children, errors
from rmeeto_bench.errors import RmeetoError, UnavailableError
from rmeeto_bench.measure.devices.device import Device, find_devices
from rmeeto_bench.measure.devices.nvml import snapshot
from rmeeto_bench.profiles import match_profile
from rmeeto_bench.records.run import DeviceRecord


def _is_name(word: str) -> bool:
    """Whether a word of `--gpus` names a kind of GPU: it is no index and no UUID."""
    plain = word.removeprefix("GPU-").removeprefix("MIG-").replace("-", "")
    return not word.isdigit() and not (len(plain) >= 32 and all(c in "0123456789abcdefABCDEF" for c in plain))


def chosen_devices(spec: str) -> list[Device]:
    """The devices behind `--gpus`: what `find_devices` knows, and kinds by name (`4090`, `a100-sxm-80`).

    Raises `UnavailableError` for one that is not there.
    """
    words = [word.strip() for word in spec.split(",")]
    if spec in ("all", "none") or spec.partition(":")[0] == "sim" or not any(map(_is_name, words)):
        return find_devices(spec)
    present = [device for device in find_devices("all") if device.kind == "cuda"]
    found: dict[str, Device] = {}
    for word in words:
        matching = [device for device in present if _matches(device, word)] if _is_name(word) else find_devices(word)
        if not matching:
            names = ", ".join(device.name for device in present) or "no GPU that torch can use"
            raise UnavailableError(f"no GPU {word}: there is {names}; use --gpus none for the CPU, --device sim to simulate")
        found |= {device.id: device for device in matching}
    return list(found.values())


def _matches(device: Device, word: str) -> bool:
    profile = match_profile(device.name, device.details().get("memory_gib"))
    return word.lower() in device.name.lower() or (profile is not None and profile.name == word.lower())


def device_record(device: Device) -> DeviceRecord:
    """A device as the manifest keeps it, with what the driver says if it is a GPU."""
    details = device.details()
    record = DeviceRecord(device.id, device.name, device.kind, device.kind, details)
    if device.kind == "cuda":
        profile = match_profile(device.name, details.get("memory_gib"))
        details["nvml"] = snapshot(device.id.removeprefix("cuda:"))
        return replace(record, profile=profile.name if profile else None)
    if device.kind == "sim":
        return replace(record, profile=device.id.removeprefix("sim:"))
    return record


def _cuda(spec: str) -> bool:
    import torch  # seconds, which a run without a GPU does not wait for here

    with warnings.catch_warnings():
        if spec != "all":
            warnings.simplefilter("ignore")  # the error for a GPU that is not there gives the reason
        return torch.cuda.is_available()


def discover(spec: str) -> tuple[DeviceRecord, ...]:
    """The records of the devices behind `--gpus`. Raises what `chosen_devices` raises."""
    if spec == "none" or spec.partition(":")[0] == "sim" or not _cuda(spec):
        return tuple(device_record(device) for device in chosen_devices(spec))
    command = children.python("rmeeto_bench.bench.run.devices", spec)
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=children.variables()
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UnavailableError(f"the GPUs cannot be looked up ({last}); see nvidia-smi, or use --gpus none") from None
    if isinstance(answer, dict):
        raise getattr(errors, answer["kind"])(answer["message"])
    return tuple(DeviceRecord(**device) for device in answer)


def no_gpu(spec: str, devices: Sequence[Device | DeviceRecord]) -> str:
    """Why `--gpus all` found the CPU alone; empty if it found GPUs, or if `spec` is another."""
    if spec != "all" or devices[0].kind != "cpu":
        return ""
    from rmeeto_bench.measure.devices.cuda import absence  # torch, which looking for GPUs has imported

    return f"no GPU that torch can use was found ({absence()})"


def main(spec: str) -> None:
    """Print the records of the devices, or the error, as JSON."""
    try:
        print(json.dumps([asdict(device_record(device)) for device in chosen_devices(spec)]))
    except RmeetoError as error:
        print(json.dumps({"kind": type(error).__name__, "message": str(error)}))


if __name__ == "__main__":
    main(sys.argv[1])
