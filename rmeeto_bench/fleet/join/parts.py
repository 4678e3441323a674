"""A run taken apart into what can be joined with others: one part per device and source run, under lasting device ids."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rmeeto_bench.errors import DataError
from rmeeto_bench.records.cell import CellKey, cell_key, code_version, lasting_device_id
from rmeeto_bench.records.check import check
from rmeeto_bench.records.run import MERGED_FROM, Arm, DeviceRecord, RunRecord, SweepRow, to_json


@dataclass(frozen=True)
class Source:
    """Where the arms of a merged run come from: one measured run, with everything its manifest said of itself.

    `sha256`: of its manifest's text. `arms`: lasting device id -> names of the arms taken from it.
    """

    run_id: str
    created_utc: str
    status: str
    tool_version: str
    sha256: str
    argv: tuple[str, ...]
    plan: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, Any]
    failures: tuple[str, ...] = ()
    arms: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """Version and commit of the code that measured."""
        return code_version(self.tool_version, self.environment)

    @property
    def order(self) -> tuple[str, str, str]:
        """Sorts sources by age, in the same order on every machine."""
        return self.created_utc, self.run_id, self.sha256


@dataclass(frozen=True)
class Part:
    """What one source measured on one device; arms carry the device's lasting id. `stored_as`: its id in the source."""

    source: Source
    device: DeviceRecord
    arms: tuple[Arm, ...]
    stored_as: str
    sweep: tuple[SweepRow, ...] = ()

    def key(self, arm: Arm) -> CellKey:
        """The id of one of its cells."""
        return cell_key(arm, self.device.id, self.source.code)


def _measured_source(record: RunRecord) -> Source:
    return Source(
        run_id=record.run_id,
        created_utc=record.created_utc,
        status=record.status,
        tool_version=record.tool_version,
        sha256=hashlib.sha256(to_json(record).encode()).hexdigest(),
        argv=record.argv,
        plan=record.plan,
        environment=record.environment,
        data=record.data,
        failures=record.failures,
    )


def _read_source(value: Any, run_id: str) -> Source:
    """A source as a merged run's plan keeps it. Raises `DataError` for one edited by hand."""
    try:
        arms = {device: tuple(names) for device, names in value["arms"].items()}
        source = Source(**{**value, "argv": tuple(value["argv"]), "failures": tuple(value.get("failures", ())), "arms": arms})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"run {run_id}: its list of merged runs is damaged ({error!r}); merge the original runs again"
        ) from error
    check(source, Source, f"run {run_id}: merged run")
    return source


def sources_of(record: RunRecord) -> list[Source]:
    """The measured runs behind a record: itself, or those that were merged into it."""
    stored = record.plan.get(MERGED_FROM)
    if stored is None:
        return [_measured_source(record)]
    if not isinstance(stored, (list, tuple)):
        raise DataError(f"run {record.run_id}: its list of merged runs is damaged; merge the original runs again")
    return [_read_source(value, record.run_id) for value in stored]


def take_apart(record: RunRecord) -> list[Part]:
    """The parts of a run, measured or merged. Raises `DataError` if a merged one does not say where an arm is from."""
    parts = []
    merged = MERGED_FROM in record.plan
    placed: set[tuple[str, str]] = set()
    for source in sources_of(record):
        for device in record.devices:
            lasting = device.id if merged else lasting_device_id(device, record.environment)
            names = set(source.arms.get(device.id, ())) if merged else {arm.arm for arm in record.arms}
            arms = tuple(replace(arm, device=lasting) for arm in record.arms if arm.device == device.id and arm.arm in names)
            placed |= {(device.id, arm.arm) for arm in arms}
            sweep = tuple(replace(row, device=lasting) for row in record.sweep if row.device == device.id and row.arm in names)
            if arms:
                parts.append(Part(replace(source, arms={}), replace(device, id=lasting), arms, device.id, sweep))
    for arm in record.arms:
        if (arm.device, arm.arm) not in placed:
            raise DataError(f"run {record.run_id} does not say which run {arm.arm} on {arm.device} came from; merge again")
    return parts


def as_plan(sources: list[Source]) -> dict[str, Any]:
    """The plan of a merged run: nothing was planned, the sources say how each was."""
    return {MERGED_FROM: json.loads(json.dumps([asdict(source) for source in sources]))}  # as it will be read again
