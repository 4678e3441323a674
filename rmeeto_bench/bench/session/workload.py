"""The arms of a group on one device, ready to be timed: real ones here, simulated ones in `simulated`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from rmeeto_bench.bench.plan.others import OWN
from rmeeto_bench.bench.plan.plan import TRAIN, BenchPlan, Cell, baseline_first
from rmeeto_bench.bench.plan.resolve import Resolved
from rmeeto_bench.bench.session.built_arm import BuiltArm, Setting, Step, build, resident_batches, setting_for
from rmeeto_bench.bench.session.training_arm import TrainingStep, build_training
from rmeeto_bench.bench.store.store import Facts, Probe
from rmeeto_bench.checkpoints.trained import written
from rmeeto_bench.data.find import Where, find_data
from rmeeto_bench.data.image_set import ImageSet
from rmeeto_bench.data.preprocessing import declared
from rmeeto_bench.data.reading import Reading
from rmeeto_bench.errors import ArmError, DataError, RmeetoError, UsageError, in_one_line
from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.models.sizes import TIMM


class Workload(Protocol):
    """All arms of a group on one device."""

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        ...

    @property
    def names(self) -> list[str]:
        """The arms that run, the baseline first if it does."""
        ...

    @property
    def data_name(self) -> str | None:
        """The evaluation set, or None."""
        ...

    @property
    def batch_size(self) -> int:
        """Images per step."""
        ...

    @property
    def views(self) -> int:
        """Views of each item of the evaluation set; 1 for images."""
        ...

    @property
    def evaluated(self) -> int:
        """Images of the accuracy pass, every view of a clip counted; 0 where there is none."""
        ...

    def step(self, arm: str, batch_size: int, *, noise: bool = False) -> Callable[[], Any]:
        """One forward of the next resident batch. Raises `torch.OutOfMemoryError` at the first call if it doesn't fit."""
        ...

    def upstream_step(self, arm: str, batch_size: int) -> Callable[[], Any]:
        """One forward the way the paper's code times it."""
        ...

    def facts(self) -> dict[str, Facts]:
        """What is known of every arm, those that cannot run included."""
        ...

    def account(self) -> str:
        """Which kernels the baseline runs on, for the user; empty where there are none."""
        ...

    def probes(self) -> dict[str, Probe]:
        """The answers of every arm with weights to the probe images; none without data."""
        ...


def _start_counting_memory(device: Device) -> int | None:
    """Bytes held now, from which the peak is counted again; None on a CPU."""
    if device.kind != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device.torch_device)
    return torch.cuda.memory_allocated(device.torch_device)


class ModelWorkload:
    """Models on a CPU or a CUDA device.

    Building is part of the constructor. Raises what `build` and `resident_batches` raise; arms that run out of memory are
    kept as failed.
    """

    def __init__(self, plan: BenchPlan, device: Device, resolved: Sequence[Resolved], workers: int | None = None) -> None:
        self.setting: Setting = setting_for(plan, device)
        self.plan = plan
        models = {one.model: one for one in resolved}
        _import_own(resolved)
        self.data = _shared({model: load_data(plan, one, workers) for model, one in models.items()})
        without = [model for model, data in self.data.items() if data is None]
        if plan.inputs in ("real", "both") and without:
            raise UsageError(f"--inputs {plan.inputs} needs images for {', '.join(without)}; give --data")
        self.built: dict[str, BuiltArm] = {}
        self.failed: dict[str, tuple[str, str]] = {}  # arm -> verdict code, what went wrong
        self._batches: dict[tuple[object, ...], list[Tensor]] = {}
        self._peaks: dict[str, float] = {}
        self._steps: dict[str, TrainingStep] = {}  # of arms that train
        self._labels = {name: weights.label for one in resolved for name, weights in one.weights.items()}
        arms = baseline_first(plan, [cell for one in resolved for cell in one.cells])
        self.baseline = arms[0].name
        for cell in arms:
            try:
                held = _start_counting_memory(device)
                self.built[cell.name] = self._ready(cell, models[cell.model])
                self.step(cell.name, self.batch_size)()
                if held is not None:
                    self._peaks[cell.name] = (torch.cuda.max_memory_allocated(device.torch_device) - held) / 2**20
            except torch.OutOfMemoryError:
                self.built.pop(cell.name, None)
                self.failed[cell.name] = ("OOM", "")
                torch.cuda.empty_cache()
            except ArmError as error:
                self.built.pop(cell.name, None)
                self.failed[cell.name] = ("ARM_FAILED", str(error))
        self._count_tokens()

    def _ready(self, cell: Cell, resolved: Resolved) -> BuiltArm:
        """The arm, built; one of others has given its first logits. Raises `ArmError` for one of others that cannot."""
        if self.plan.what == TRAIN:
            torch.manual_seed(self.plan.seed)
            return build_training(cell, self.setting, resolved)
        if not resolved.program:
            return build(cell, self.plan, self.setting, resolved)
        from rmeeto_bench.bench.session.other_arm import build_other, gflops_of, refused_graph

        torch.manual_seed(self.plan.seed)
        try:
            arm = build_other(cell, self.setting, resolved)
        except (torch.OutOfMemoryError, RmeetoError):
            raise
        except (Exception, SystemExit) as error:  # whatever the code of others raises
            raise ArmError(in_one_line(error)) from error
        self.built[cell.name] = arm
        logits = self.step(cell.name, self.batch_size)()
        data = self._images(arm)
        if arm.is_evaluated and data is not None and logits.shape[1] != data.num_classes:
            raise ArmError(f"it gives {logits.shape[1]} classes, and the images have {data.num_classes}")
        if refused := refused_graph(arm):
            raise ArmError(refused)
        return replace(arm, gflops=gflops_of(arm, self.setting))

    def _images(self, arm: BuiltArm) -> ImageSet | None:
        """The images of an arm's model, if they are of the arm's own shape."""
        data = self.data[arm.cell.model]
        return data if data is not None and data.shape == arm.input_shape else None

    def _count_tokens(self) -> None:
        """Realised tokens are read off a real forward of the timed program, before timing."""
        self.counted = {name: arm.model.token_counts() for name, arm in self.built.items()}

    @property
    def names(self) -> list[str]:
        """The arms that run."""
        return list(self.built)

    @property
    def data_name(self) -> str | None:
        """The evaluation set of the first model that has one."""
        return next((data.name for data in self.data.values() if data is not None), None)

    @property
    def views(self) -> int:
        """Views of each item of the evaluation set, the most of any."""
        return max((data.views for data in self.data.values() if data is not None), default=1)

    @property
    def evaluated(self) -> int:
        """Images of the accuracy pass: none without weights or data."""
        return max((len(data) * data.views for data, _ in self.evaluations()), default=0)

    def evaluations(self) -> list[tuple[ImageSet, list[BuiltArm]]]:
        """The passes over images: each set with the arms that see it in one go. Arms with random weights see none, and arms
        that train change theirs."""
        if self.plan.what == TRAIN:
            return []
        return self._by_images([arm for arm in self.built.values() if arm.is_evaluated])

    def fed(self) -> list[tuple[ImageSet, list[BuiltArm]]]:
        """Each set of images with all arms that can read it, random weights or not."""
        return self._by_images(list(self.built.values()))

    def _by_images(self, arms: list[BuiltArm]) -> list[tuple[ImageSet, list[BuiltArm]]]:
        found: dict[str, tuple[ImageSet, list[BuiltArm]]] = {}
        for arm in arms:
            data = self._images(arm)
            if data is not None:
                found.setdefault(data.fingerprint, (data, []))[1].append(arm)
        return list(found.values())

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return self.setting.batch_size

    def sees_noise(self, arm: BuiltArm) -> bool:
        """Whether an arm is timed on noise alone."""
        return self._images(arm) is None or self.plan.inputs == "random" or self.plan.accuracy_only

    def batches(self, arm: str, batch_size: int, *, noise: bool = False) -> list[Tensor]:
        """Resident batches of this size, made once and shared by all arms that take the same."""
        built = self.built[arm]
        data = None if noise or self.sees_noise(built) else self._images(built)
        key = (batch_size, built.input_shape, None if data is None else data.fingerprint)
        if key not in self._batches:
            precision = "fp32" if self.plan.what == TRAIN else self.setting.precision
            setting = replace(self.setting, batch_size=batch_size, precision=precision)
            self._batches[key] = resident_batches(built.input_shape, data, setting, self.plan.seed)
        return self._batches[key]

    def step(self, arm: str, batch_size: int, *, noise: bool = False) -> Callable[[], Any]:
        """One forward of the next resident batch, or one step of training on it."""
        if self.plan.what == TRAIN:
            return self._trains(arm, batch_size)
        return Step(self.built[arm].forward, self.batches(arm, batch_size, noise=noise))

    def _trains(self, arm: str, batch_size: int) -> TrainingStep:
        """The step of an arm, made once: it owns the optimizer's state."""
        if arm not in self._steps:
            self._steps[arm] = TrainingStep(self.built[arm], self.batches(arm, batch_size), self.setting)
        return self._steps[arm]

    def upstream_step(self, arm: str, batch_size: int) -> Callable[[], Any]:
        """Noise of standard deviation 1, eager, inside autocast on a GPU, as the paper's code does."""
        built, device = self.built[arm], self.setting.device.torch_device
        images = self.batches(arm, batch_size, noise=True)[0]
        on_gpu = device.type == "cuda"

        @torch.inference_mode()
        def forward() -> Tensor:
            with torch.autocast(device.type, torch.float16, enabled=on_gpu):
                return built.eager(images)

        return forward

    def facts(self) -> dict[str, Facts]:
        """What is known of every arm."""
        base = Facts(self.setting.precision, self.batch_size, self.setting.backend)
        found = {
            name: replace(base, weights=self._labels[name], failure=code, failure_detail=why)
            for name, (code, why) in self.failed.items()
        }
        for name, arm in self.built.items():
            origin = arm.provenance
            found[name] = replace(
                base,
                backend=arm.kernels_name,
                weights=arm.weights,
                checkpoint=None if origin is None else origin.path.name,
                checkpoint_sha256=None if origin is None else origin.sha256,
                known_by=arm.known_by,
                averaged=origin is not None and origin.averaged,
                reduction=written(arm.cell.reduction),
                num_classes=arm.model.config.num_classes,
                labels=arm.labels(self.batch_size),
                token_counts=self.counted[name],
                planned_token_counts=arm.model.planned_token_counts(),
                peak_memory_mib=self._peaks.get(name),
                gflops=arm.gflops,
                noise=self.sees_noise(arm),
                failure="ARM_FAILED" if arm.failure else None,
                failure_detail=arm.failure,
                compile_seconds=None if arm.compiled is None else arm.compiled.seconds,
                recompilations=None if arm.compiled is None else arm.compiled.recompilations,
            )
        return found

    def account(self) -> str:
        """Which kernels each model runs on."""
        return "; ".join({arm.cell.model: arm.account() for arm in self.built.values()}.values())

    def probes(self) -> dict[str, Probe]:
        """The answers to the resident real images, through the forward that is timed."""
        from rmeeto_bench.bench.session.probe import probe

        found: dict[str, Probe] = {}
        for data, arms in self.evaluations():
            batches = resident_batches(arms[0].input_shape, data, self.setting, self.plan.seed)
            found |= {arm.cell.name: probe(arm.forward, batches) for arm in arms}
        return found


def _import_own(resolved: Sequence[Resolved]) -> None:
    """Import the user's own code before anything that takes long. Raises `UsageError` for a function that is not there."""
    targets = [one.program for one in resolved if one.program and not one.program.startswith(TIMM)]
    if targets:
        from rmeeto_bench.bench.session.other_arm import takes_device

        for target in targets:
            takes_device(target)


def _shared(data: dict[str, ImageSet | None]) -> dict[str, ImageSet | None]:
    """The same with one object for all sets of the same images and preprocessing."""
    first: dict[str, ImageSet] = {}
    return {model: None if one is None else first.setdefault(one.fingerprint, one) for model, one in data.items()}


def load_data(plan: BenchPlan, resolved: Resolved, workers: int | None = None) -> ImageSet | None:
    """The evaluation set of a model under a plan, or None. `workers`: processes that decode.

    Raises `DataError`, and `UsageError` for images of another size than the model's.
    """
    shape = resolved.input_shape
    declared_by = None if resolved.preprocessing is None or plan.data is None else declared(resolved.preprocessing)
    find = partial(
        find_data,
        plan.data,
        shape=shape,
        num_classes=resolved.num_classes,
        images=plan.evaluated_images,
        reading=Reading(plan.on_error, workers, declared_by),
    )
    where = Where(plan.labels, plan.class_map, resolved.class_names)
    try:
        data = find(where=where)
    except DataError:
        if plan.what != TRAIN and any(one.path is not None or one.label == OWN for one in resolved.weights.values()):
            raise
        data = find(where=replace(where, unlabelled=True))
    if data is not None and data.shape != shape:
        taken = f"{resolved.model} takes {shape}; choose another --data or --model"
        raise UsageError(f"{data.name} has images of {data.shape}, {taken}")
    return data
