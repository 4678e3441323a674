"""The record of a run: versioned data that `bench` writes and `report` reads.

Only the standard library is imported here, so that a report never loads torch. Field names are the JSON names.

Format history of `manifest.json` (major.minor: a reader takes any minor of its major and leaves out fields it doesn't know):
1: first version.
1.1: sessions, latency, the paper's protocol, inputs and batch sweeps; where a run came from and what failed in it.
1.2: arms of several models over one of them; models of others, of whose tokens nothing is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rmeeto_bench.errors import DataError, MeasurementError
from rmeeto_bench.files import write_atomic
from rmeeto_bench.records.check import check
from rmeeto_bench.records.plausible import check_counts, check_plausible

SCHEMA = "rmeeto-bench/1.2"
MAJOR = "rmeeto-bench/1"
MANIFEST = "manifest.json"
DATABASE = "run.sqlite"
MERGED_FROM = "merged_from"  # key of the plan of a run that was merged: it had no plan of its own
LARGEST_MANIFEST = 64 << 20  # bytes; a run of all models on sixteen GPUs has one of some 3 MB


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, in the unit of the field that holds it."""

    value: float  # point estimate
    low: float | None = None  # lower end of the interval; None: no interval is known
    high: float | None = None  # upper end of the interval; None: no interval is known


@dataclass(frozen=True)
class DeviceRecord:
    """One device that a run used."""

    id: str  # cpu, cuda:<UUID> or sim:<name>; in a merged run cpu@<host> instead of cpu
    name: str  # as the driver or the operating system gives it
    kind: str  # cpu, cuda or sim
    profile: str | None = None  # name in profiles/; None: no profile describes this device
    # what else is known of it: memory, compute capability, driver settings, ...
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """One timed block, as stored in the database. Its steps are enqueued without synchronising."""

    device: str  # id of the device
    session: int  # number of the session, from 0
    round: int  # number of the round, in the order of measuring and with dropped rounds counted
    position: int  # place of the block in its round, from 0
    arm: str  # name of the arm
    steps: int  # forwards of the arm
    images: int  # in all steps together
    seconds: float  # time on the device
    wall_seconds: float  # time on the host's clock
    rejected_reason: str | None = None  # code and explanation if the block made its round be dropped, else None
    # what telemetry saw during the block: clocks, temperature, power, ...; empty if it was off
    telemetry: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One (device, model, ratio, precision, backend) of a run, and everything measured about it."""

    device: str  # id of the device
    arm: str  # name, as in vim_small/r5
    model: str  # name of the model
    r: int  # tokens that each merge removes
    ratio_requested: float  # reduction ratio that the user asked for
    reduction_ratio: float  # reached with this r: 1 - mean tokens per block / initial tokens
    token_counts: tuple[int, ...]  # tokens that enter each block
    final_tokens: int  # the last of `token_counts`
    precision: str  # fp32, fp16 or bf16
    backend: str  # kernels that ran
    batch_size: int  # images
    # retrained (a checkpoint trained at this r), training-free (baseline weights, merging switched on), baseline (r = 0),
    # trained at r=N (another one), unknown origin, or random (no checkpoint: throughput only)
    weights: str
    checkpoint: str | None = None  # file name of the weights; None: random weights
    checkpoint_sha256: str | None = None  # of that file
    # convention -> GFLOPs per image; of models of others only `counted`, what torch counts
    gflops: dict[str, float] = field(default_factory=dict)
    images_per_second: Estimate | None = None  # throughput; None: not measured
    speedup: Estimate | None = None  # ratio over the r = 0 arm of the same model and device
    top1: Estimate | None = None  # percent
    top5: Estimate | None = None  # percent
    delta_top1: Estimate | None = None  # percentage points over the r = 0 arm, paired by image
    n_images: int = 0  # images behind top1
    rounds: int = 0  # complete rounds behind the throughput, over all sessions
    verdict: str = "VALID"  # code of what the numbers are good for: VALID, EXPLORATORY, SIMULATED, ...
    verdict_detail: str = ""  # what to do about the verdict, or what went wrong
    labels: tuple[str, ...] = ()  # codes of what a reader must know of a result that is valid all the same
    paper: dict[str, float] | None = None  # published images/s, speed-up and top-1 for this GPU and r; None: the paper has none
    sessions: int = 0  # fresh processes behind the throughput
    # Percentiles p50, p90 and p99 (of 200 or more) of single steps at batch 1, in ms, and their number, steps.
    latency_ms: dict[str, float] | None = None
    paper_mode: dict[str, float] | None = None  # images/s and speed-up by the paper's own protocol on this machine
    noise_speed: Estimate | None = None  # images/s on noise over images/s on real images
    top1_p: float | None = None  # McNemar's mid-p against the r = 0 arm, by Holm's method over the ratios
    beaten_p: float | None = None  # p-value that no other arm is both faster and more accurate, by Holm's method over all pairs
    images_per_second_per_point: Estimate | None = None  # images/s gained per point of top-1 lost
    break_even: Estimate | None = None  # only in the r = 0 arm: the reduction ratio from which on merging is faster
    peak_memory_mib: float | None = None  # the most GPU memory that building the arm and its first step took; None on a CPU
    joules_per_image: Estimate | None = None  # of the arm alone; None unless the driver's counter and its power readings agree
    known_by: str = ""  # what says how the weights were trained: catalogue, metadata, arguments, file name or unknown
    averaged: bool = False  # whether the weights are an average over the training (EMA, SWA)
    reduction: str = ""  # the whole reduction in words, as in "r = 11, prune"
    calibration_error: float | None = None  # expected calibration error in percentage points
    # images/s of the whole pipeline, from encoded images to logits, and of its parts alone: decode, transfer, forward
    fed: dict[str, float] | None = None
    what: str = "inference"  # what a step is: a forward, or `train`, a step of the optimizer
    agreement: float | None = None  # percent of the images with the same first class as the r = 0 arm
    # name of the arm that the arms of several models are compared with, where those above say r = 0 arm; empty: that arm
    baseline: str = ""
    front_p: float | None = None  # p-value that some other arm is as fast and as accurate, by Holm's method over the arms
    compile_seconds: float | None = None  # the most that torch.compile took in a process, apart from all times
    recompilations: int | None = None  # that torch asked for after that; none may happen while timing

    @property
    def is_baseline(self) -> bool:
        """Whether speed-ups and points are over this arm."""
        return self.arm == self.baseline if self.baseline else self.r == 0

    @property
    def is_over_own(self) -> bool:
        """Whether speed-up and points are over r = 0 of the same model, so that they say what merging does."""
        return self.baseline in ("", f"{self.model}/r0")

    @property
    def title(self) -> str:
        """What people call it: a model of others has no r."""
        return self.arm if self.token_counts else self.model

    @property
    def group(self) -> str:
        """The same for the arms of a device that shared their rounds."""
        return self.baseline or self.model

    @property
    def known(self) -> bool:
        """Whether anything was measured: its speed, or only its accuracy."""
        return self.images_per_second is not None or self.top1 is not None


@dataclass(frozen=True)
class ClassChange:
    """The change of one class in one arm. The extremes among many classes are mostly luck; `shrunk` holds for them, too."""

    arm: str  # name of the arm
    label: int  # class number
    images: int  # of this class
    baseline_correct: int  # images that the r = 0 arm got right
    correct: int  # images that this arm got right
    delta: Estimate  # percentage points over the r = 0 arm, paired by image
    shrunk: Estimate  # the same as all classes together suggest it


@dataclass(frozen=True)
class Raw:
    """What the report of a run shows beside its record, from its database."""

    blocks: Mapping[str, Sequence[Block]]  # device id -> its blocks in the order measured
    classes: Sequence[ClassChange] = ()  # of every merged arm that was evaluated


@dataclass(frozen=True)
class SweepRow:
    """Images/s of one arm at one batch size."""

    device: str  # id of the device
    arm: str  # name of the arm
    model: str  # name of the model
    r: int  # tokens that each merge removes
    batch_size: int  # images
    images_per_second: Estimate | None  # None: this size did not fit into memory
    verdict: str  # VALID, SIMULATED or OOM
    knee: bool = False  # this is the smallest batch with at least 98 % of the best rate


@dataclass(frozen=True)
class RunRecord:
    """One run: who, when, how, on what, and the arms."""

    run_id: str  # unique name of the run
    created_utc: str  # start, as YYYY-MM-DDTHH:MM:SSZ; of a merged run, that of its newest source
    status: str  # running, complete, interrupted, or failed (a device was lost; see `failures`)
    tool_version: str  # version of this package
    argv: tuple[str, ...]  # words of the command line
    plan: dict[str, Any]  # every setting of the run as plain values; a merged run lists its sources instead
    environment: dict[str, Any]  # host, Python, packages, driver, commit, ...
    devices: tuple[DeviceRecord, ...]  # used by the run
    arms: tuple[Arm, ...]  # results
    # model -> what it was timed and evaluated on: name, images, problems found when they were read, ...
    data: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA  # version of this format
    sweep: tuple[SweepRow, ...] = ()  # results of a sweep over batch sizes
    failures: tuple[str, ...] = ()  # one line for each device that was lost
    resumed_utc: tuple[str, ...] = ()  # when the run was resumed
    parent_run: str | None = None  # id of the run that this one repeats

    def device(self, device_id: str) -> DeviceRecord:
        """The device with this id; raises `DataError` if the record is inconsistent."""
        for device in self.devices:
            if device.id == device_id:
                return device
        raise DataError(f"run {self.run_id} names no device {device_id!r}; its manifest was edited by hand")

    def label(self, device_id: str) -> str:
        """The name of a device for people; where several of the run have that name, with its id as nvidia-smi begins it."""
        name = self.device(device_id).name
        if sum(device.name == name for device in self.devices) == 1:
            return name
        kind, _, uuid = device_id.rpartition(":")
        own = uuid if kind != "cuda" else uuid[:12] if uuid.startswith("MIG-") else f"GPU-{uuid[:8]}"
        return f"{name} ({own})"


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
