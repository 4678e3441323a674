"""The stable id of a cell, made from all settings behind one number of a table.

The id is the same on every machine and in every run. Results with one id may be compared; results with different ids may not.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from rmeeto_bench.records.run import Arm, DeviceRecord

ID_DIGITS = 16


@dataclass(frozen=True)
class CellKey:
    """What identifies a cell."""

    device: str  # cuda:<UUID>, cpu@<host> or sim:<name>; before the machine is known, the name of a GPU profile
    model: str  # name of the model
    arm: str  # model, r and whatever else makes the arm
    r: int  # tokens that each merge removes
    precision: str  # fp32, fp16 or bf16
    backend: str  # kernels that ran
    batch_size: int  # images
    checkpoint: str | None  # sha256 of the weights; None: random weights
    code: str  # version of this package, and its commit in a checkout
    what: str = "inference"  # what a step is: a forward, or a step of training

    @property
    def id(self) -> str:
        """16 hex digits; equal keys have equal ids on every machine."""
        told = {name: value for name, value in asdict(self).items() if (name, value) != ("what", "inference")}
        text = json.dumps(told, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]

    def differences(self, other: CellKey) -> list[str]:
        """`field mine / theirs` for every field that differs."""
        names = [field.name for field in fields(self)]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name.replace('_', ' ')} {mine} / {theirs}" for name, mine, theirs in pairs if mine != theirs]


def code_version(tool_version: str, environment: dict[str, Any]) -> str:
    """The version, with the commit if the run came from a checkout."""
    commit = environment.get("git_commit")
    return f"{tool_version} ({commit})" if commit else tool_version


def lasting_device_id(device: DeviceRecord, environment: dict[str, Any]) -> str:
    """The device's id among those of many machines. Every machine has a `cpu`, so its id gets the host's name."""
    return f"cpu@{environment.get('host') or device.name}" if device.id == "cpu" else device.id


def cell_key(arm: Arm, device: str, code: str) -> CellKey:
    """The key of a result. `device`: its lasting id; `code`: version of the code that measured."""
    return CellKey(
        device=device,
        model=arm.model,
        arm=arm.arm,
        r=arm.r,
        precision=arm.precision,
        backend=arm.backend,
        batch_size=arm.batch_size,
        checkpoint=arm.checkpoint_sha256,
        code=code,
        what=arm.what,
    )
