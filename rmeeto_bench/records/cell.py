"""The stable id of a cell: what one number of a table was measured with, the same on every machine and in every run.

Two results with one id are two measurements of one thing and may be compared; results with different ids may not.
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
    """What identifies a cell. `device`: `cuda:<UUID>`, `cpu@<host>` or `sim:<name>`; before the machine is known, the name of
    a GPU profile. `arm`: model, r and whatever else makes the arm. `checkpoint`: sha256 of the weights, or None for random
    ones. `code`: version of this package, and its commit in a checkout."""

    device: str
    model: str
    arm: str
    r: int
    precision: str
    backend: str
    batch_size: int
    checkpoint: str | None
    code: str

    @property
    def id(self) -> str:
        """16 hex digits; equal keys have equal ids on every machine."""
        text = json.dumps(asdict(self), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]

    def differences(self, other: CellKey) -> list[str]:
        """`field mine / theirs` for every field that differs."""
        names = [field.name for field in fields(self)]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name.replace('_', ' ')} {mine} / {theirs}" for name, mine, theirs in pairs if mine != theirs]


def code_version(tool_version: str, environment: dict[str, Any]) -> str:
    """The version, with the commit where the run came from a checkout."""
    commit = environment.get("git_commit")
    return f"{tool_version} ({commit})" if commit else tool_version


def lasting_device_id(device: DeviceRecord, environment: dict[str, Any]) -> str:
    """The device's id among those of many machines: every machine has a `cpu`, so that one gets its host's name."""
    return f"cpu@{environment.get('host') or device.name}" if device.id == "cpu" else device.id


def cell_key(arm: Arm, device: str, code: str) -> CellKey:
    """The key of a result, its device's lasting id and its code's version given."""
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
    )
