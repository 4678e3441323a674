"""Split a run into parts that can be merged with others: one per device and source run, under lasting device ids."""

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
class PartSource:
    """One measured run whose arms are part of a merged run, with everything its manifest said of itself."""

    run_id: str  # of that run
    created_utc: str  # of that run
    status: str  # of that run
    tool_version: str  # version that measured it
    sha256: str  # of its manifest's text
    argv: tuple[str, ...]  # words of its command line
    plan: dict[str, Any]  # its settings as plain values
    environment: dict[str, Any]  # of its machine
    data: dict[str, Any]  # model -> what it was evaluated on
    failures: tuple[str, ...] = ()  # one line for each device that it lost
    arms: dict[str, tuple[str, ...]] = field(default_factory=dict)  # lasting device id -> names of the arms taken from it

    @property
    def code(self) -> str:
        """Version and commit of the code that measured."""
        return code_version(self.tool_version, self.environment)

    @property
    def order(self) -> tuple[str, str, str]:
        """Sort key of sources: oldest first, in the same order on every machine."""
        return self.created_utc, self.run_id, self.sha256


@dataclass(frozen=True)
class Part:
    """What one source measured on one device."""

    source: PartSource  # the run it comes from
    device: DeviceRecord  # under its lasting id
    arms: tuple[Arm, ...]  # under the device's lasting id
    stored_as: str  # the device's id in the source
    sweep: tuple[SweepRow, ...] = ()  # rows of these arms, under the device's lasting id

    def key(self, arm: Arm) -> CellKey:
        """The id of one of its cells."""
        return cell_key(arm, self.device.id, self.source.code)


def _measured_source(record: RunRecord) -> PartSource:
    return PartSource(
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


def _read_source(value: Any, run_id: str) -> PartSource:
    """A source from the plan of a merged run. Raises `DataError` if it is damaged."""
    try:
        arms = {device: tuple(names) for device, names in value["arms"].items()}
        source = PartSource(
            **{**value, "argv": tuple(value["argv"]), "failures": tuple(value.get("failures", ())), "arms": arms}
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"run {run_id}: its list of merged runs is damaged ({error!r}); merge the original runs again"
        ) from error
    check(source, PartSource, f"run {run_id}: merged run")
    return source


def sources_of(record: RunRecord) -> list[PartSource]:
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


def as_plan(sources: list[PartSource]) -> dict[str, Any]:
    """The plan of a merged run: the list of its sources, each with its own plan."""
    return {MERGED_FROM: json.loads(json.dumps([asdict(source) for source in sources]))}  # as it will be read again
