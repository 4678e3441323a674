"""The arms of a run grouped by device and model, as tables, figures and sentences go through them."""

from __future__ import annotations

from collections.abc import Iterator

from rmeeto_bench.records.run import Arm, RunRecord


def groups(record: RunRecord, device: str | None = None) -> Iterator[tuple[str, str, list[Arm]]]:
    """(device id, model, its arms by ascending r), in the order of the record."""
    seen = dict.fromkeys((arm.device, arm.model) for arm in record.arms)
    for device_id, model in seen:
        if device is None or device_id == device:
            arms = [arm for arm in record.arms if (arm.device, arm.model) == (device_id, model)]
            yield device_id, model, sorted(arms, key=lambda arm: arm.r)
