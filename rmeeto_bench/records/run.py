"""What a run leaves behind: the versioned records that `bench` writes and `report` reads.

Only the standard library is imported here, so that a report never loads torch. Field names are the JSON names.

Format history of `manifest.json` (major.minor: a reader takes any minor of its major and leaves out fields it doesn't know):
1: first version.
1.1: sessions, latency, the paper's protocol, inputs and batch sweeps; where a run came from and what failed in it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rmeeto_bench.errors import DataError, MeasurementError
from rmeeto_bench.files import write_atomic
from rmeeto_bench.records.check import check
from rmeeto_bench.records.plausible import check_counts, check_plausible

SCHEMA = "rmeeto-bench/1.1"
MAJOR = "rmeeto-bench/1"
MANIFEST = "manifest.json"
DATABASE = "run.sqlite"
MERGED_FROM = "merged_from"  # key of the plan of a run that was merged: it had no plan of its own
LARGEST_MANIFEST = 64 << 20  # bytes; a run of all models on sixteen GPUs has one of some 3 MB


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, in the unit of the field that holds it."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DeviceRecord:
    """One device a run used. `id` is `cpu`, `cuda:<UUID>` or `sim:<name>`; `profile` a name in profiles/ or None."""

    id: str
    name: str
    kind: str
    profile: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """One timed block: `steps` forwards of one arm, enqueued without synchronising, as stored in the database."""

    device: str
    session: int
    round: int
    position: int
    arm: str
    steps: int
    images: int
    seconds: float
    wall_seconds: float
    rejected_reason: str | None = None
    telemetry: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One (device, model, ratio, precision, backend) of a run and everything measured about it.

    `weights`: `retrained` (a checkpoint trained at this r), `training-free` (baseline weights, merging switched on),
    `baseline` (r = 0) or `random` (no checkpoint: throughput only). `top1` and `delta_top1` are percent and
    percentage points, `images_per_second` images/s, `speedup` a ratio over the r = 0 arm of the same device.
    `gflops`: convention name -> GFLOPs per image. `paper`: published values for this GPU and ratio, or None.
    `sessions`: fresh processes behind the numbers. `latency_ms`: p50, p90, p99 of single steps at batch 1.
    `peak_memory_mib`: the most GPU memory that building the arm and its first step took (None on a CPU).
    `paper_mode`: images/s and speed-up by the paper's own protocol on this machine. `noise_speed`: images/s on noise over
    images/s on real images. `top1_p`: McNemar's mid-p against the baseline, by Holm's method over the ratios.
    `front_share`: share of resamples in which no other arm is both faster and more accurate.
    `images_per_second_per_point`: images/s gained per point of top-1 lost. `break_even`, in the baseline's row: the
    reduction ratio from which on merging is faster. `joules_per_image`: of the arm alone, where the driver's counter and
    its power readings agree.
    """

    device: str
    arm: str
    model: str
    r: int
    ratio_requested: float
    reduction_ratio: float
    token_counts: tuple[int, ...]
    final_tokens: int
    precision: str
    backend: str
    batch_size: int
    weights: str
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    gflops: dict[str, float] = field(default_factory=dict)
    images_per_second: Estimate | None = None
    speedup: Estimate | None = None
    top1: Estimate | None = None
    top5: Estimate | None = None
    delta_top1: Estimate | None = None
    n_images: int = 0
    rounds: int = 0
    verdict: str = "VALID"
    verdict_detail: str = ""
    labels: tuple[str, ...] = ()
    paper: dict[str, float] | None = None
    sessions: int = 0
    latency_ms: dict[str, float] | None = None
    paper_mode: dict[str, float] | None = None
    noise_speed: Estimate | None = None
    top1_p: float | None = None
    front_share: float | None = None
    images_per_second_per_point: Estimate | None = None
    break_even: Estimate | None = None
    peak_memory_mib: float | None = None
    joules_per_image: Estimate | None = None


@dataclass(frozen=True)
class SweepRow:
    """Images/s of one arm at one batch size; `knee` marks the smallest batch with at least 98 % of the best rate."""

    device: str
    arm: str
    model: str
    r: int
    batch_size: int
    images_per_second: Estimate | None
    verdict: str
    knee: bool = False


@dataclass(frozen=True)
class RunRecord:
    """One run: who, when, how, on what, and the arms. `status`: running, complete, interrupted or failed (a device was
    lost: `failures` says how). `parent_run`: the run this one repeats."""

    run_id: str
    created_utc: str
    status: str
    tool_version: str
    argv: tuple[str, ...]
    plan: dict[str, Any]
    environment: dict[str, Any]
    devices: tuple[DeviceRecord, ...]
    arms: tuple[Arm, ...]
    data: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA
    sweep: tuple[SweepRow, ...] = ()
    failures: tuple[str, ...] = ()
    resumed_utc: tuple[str, ...] = ()
    parent_run: str | None = None

    def device(self, device_id: str) -> DeviceRecord:
        """The device with this id; raises `DataError` if the record is inconsistent."""
        for device in self.devices:
            if device.id == device_id:
                return device
        raise DataError(f"run {self.run_id} names no device {device_id!r}; its manifest was edited by hand")


def require_measured(record: RunRecord) -> None:
    """Refuse a run with simulated devices where only measurements may enter: the paper's tables, a gate, a baseline.

    Raises `MeasurementError`.
    """
    if any(device.kind == "sim" for device in record.devices):
        raise MeasurementError(f"run {record.run_id} is simulated; give one that was measured on a real device")


def _known(kind: type, value: dict[str, Any]) -> dict[str, Any]:
    """The entries that are fields of this class: a later minor version may have more."""
    names = {item.name for item in fields(kind)}
    return {name: entry for name, entry in value.items() if name in names}


ESTIMATES = (
    *("images_per_second", "speedup", "top1", "top5", "delta_top1", "noise_speed"),
    *("images_per_second_per_point", "break_even", "joules_per_image"),
)


def _estimate(value: dict[str, float] | None) -> Estimate | None:
    return None if value is None else Estimate(**_known(Estimate, value))


def _arm(value: dict[str, Any]) -> Arm:
    estimates = {name: _estimate(value.get(name)) for name in ESTIMATES}
    tuples = {"token_counts": tuple(value["token_counts"]), "labels": tuple(value.get("labels", ()))}
    return Arm(**{**_known(Arm, value), **estimates, **tuples})


def _sweep_row(value: dict[str, Any]) -> SweepRow:
    return SweepRow(**{**_known(SweepRow, value), "images_per_second": _estimate(value["images_per_second"])})


def from_json(text: str) -> RunRecord:
    """Parse a manifest. Raises `DataError` for text that is no manifest, or one of a later major version."""
    try:
        value = json.loads(text)
        if value["schema"] != MAJOR and not value["schema"].startswith(MAJOR + "."):
            raise DataError(f"this run was written as {value['schema']!r}, this version reads {SCHEMA!r}; upgrade rmeeto-bench")
        check_counts({name: len(value.get(name, ())) for name in ("devices", "arms", "sweep")})
        tuples = {name: tuple(value[name]) for name in ("argv", "failures", "resumed_utc") if name in value}
        record = RunRecord(
            **{
                **_known(RunRecord, value),
                **tuples,
                "devices": tuple(DeviceRecord(**_known(DeviceRecord, device)) for device in value["devices"]),
                "arms": tuple(_arm(arm) for arm in value["arms"]),
                "sweep": tuple(_sweep_row(row) for row in value.get("sweep", ())),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"not a rmeeto-bench manifest ({error!r}); give the folder of a run") from error
    check(record, RunRecord, "manifest")
    known = {device.id for device in record.devices}
    for device in (*(arm.device for arm in record.arms), *(row.device for row in record.sweep)):
        if device not in known:
            record.device(device)  # says what is wrong
    check_plausible(record)
    return record


def to_json(record: RunRecord) -> str:
    """The manifest's text, stable in field order, so that two equal records are equal bytes."""
    return json.dumps(asdict(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def save(record: RunRecord, folder: Path) -> Path:
    """Write the manifest of a run into its folder and return its path."""
    path = folder / MANIFEST
    write_atomic(path, to_json(record))
    return path


def load(folder: Path) -> RunRecord:
    """Read the manifest of a run folder (or the manifest file itself). Raises `DataError`."""
    path = folder / MANIFEST if folder.is_dir() else folder
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise DataError(f"{path} is larger than any manifest; give the folder of a run")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; give the folder of a run") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text, so no manifest; give the folder of a run") from error
    try:
        return from_json(text)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
