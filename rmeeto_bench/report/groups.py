"""The arms of a run as tables, figures and sentences go through them: grouped by device, and by model or by shared rounds."""

from __future__ import annotations

from collections.abc import Iterator

from rmeeto_bench.records.run import Arm, RunRecord


def groups(record: RunRecord, device: str | None = None) -> Iterator[tuple[str, str, list[Arm]]]:
    """(device id, model or models, their arms), in the order of the record; those of one model by ascending r."""
    for device_id, group in dict.fromkeys((arm.device, arm.group) for arm in record.arms):
        if device in (None, device_id):
            arms = [arm for arm in record.arms if (arm.device, arm.group) == (device_id, group)]
            name = " + ".join(dict.fromkeys(arm.model for arm in arms))
            yield device_id, name, arms if arms[0].baseline else sorted(arms, key=lambda arm: arm.r)


def by_model(record: RunRecord) -> Iterator[tuple[str, str, list[Arm]]]:
    """(device id, model, its arms by ascending r), whatever they are compared with."""
    for device_id, model in dict.fromkeys((arm.device, arm.model) for arm in record.arms):
        arms = [arm for arm in record.arms if (arm.device, arm.model) == (device_id, model)]
        yield device_id, model, sorted(arms, key=lambda arm: arm.r)
