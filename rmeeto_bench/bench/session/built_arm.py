"""Building the arms of a comparison: models with their weights, precision and inputs on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from rmeeto_bench.bench.plan.others import OWN
from rmeeto_bench.bench.plan.plan import BenchPlan, Cell, batch_size_for, precision_for
from rmeeto_bench.bench.plan.resolve import Resolved, Weights
from rmeeto_bench.checkpoints.fit import RESIZED
from rmeeto_bench.checkpoints.reader import Provenance, load_state
from rmeeto_bench.data.image_set import ImageSet
from rmeeto_bench.errors import CheckpointError
from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.compiled import PLAIN, CompiledForward
from rmeeto_bench.models.foreign import ForeignModel, Guarded
from rmeeto_bench.models.graphs import GraphedForward
from rmeeto_bench.models.sizes import COMPILE, uncompiled
from rmeeto_bench.models.zoo import create_model

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
RESIDENT_BATCHES = 4  # inputs rotate, so that no cache serves one batch over and over


@dataclass(frozen=True)
class Setting:
    """What all arms on a device share."""

    device: Device  # where they run
    precision: str  # fp32, fp16 or bf16
    batch_size: int  # images of a step
    backend: str  # kernels, a name of the registry or auto
    graphs: bool = False  # replay CUDA graphs

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and inputs; the scan's recurrence is fp32 in any."""
        return DTYPES[self.precision]

    def place(self, tensor: Tensor) -> Tensor:
        """A tensor on the device in the working precision."""
        return tensor.to(self.device.torch_device, self.dtype).contiguous()


def setting_for(plan: BenchPlan, device: Device) -> Setting:
    """The plan's settings, with those left open chosen for this device."""
    graphs = device.kind == "cuda" and plan.graphs
    return Setting(device, precision_for(plan, device.kind), batch_size_for(plan, device.kind), plan.backend, graphs)


@dataclass(frozen=True)
class BuiltArm:
    """A model ready to run."""

    cell: Cell  # what it is, by the plan
    model: ReducedModel | ForeignModel  # on the device, frozen
    weights: str  # what a table says of its weights: baseline, retrained, training-free or random
    provenance: Provenance | None  # where they come from; None: random
    forward: Callable[[Tensor], Tensor]  # images [B, ...] -> logits [B, classes], as it is timed
    known_by: str = ""  # what tells how the weights were trained: catalogue, metadata, arguments, file name or unknown
    on_gpu: bool = False  # where it runs
    compiled: CompiledForward | None = None  # the model through torch.compile, if it is
    gflops: float | None = None  # of an image as torch counts them, of a model that is not ours; None: not known

    def eager(self, images: Tensor) -> Tensor:
        """Images [B, ...] -> logits [B, classes] as the model gives them: an odd batch gets no CUDA graph and no program of its
        own."""
        plain = self.model if self.compiled is None else self.compiled.eager
        return self.forward(images, plain) if isinstance(self.forward, Guarded) else plain(images)

    @property
    def kernels_name(self) -> str:
        """The kernels that it runs on."""
        return self.model.kernels_name + (", compiled (inductor)" if self.compiled else "")

    @property
    def is_evaluated(self) -> bool:
        """Whether its answers mean something: it has trained weights, or is the user's own code, who must know."""
        return self.provenance is not None or self.weights == OWN

    @property
    def failure(self) -> str:
        """Why the program of others behind it failed; empty if it did not."""
        return self.forward.failure if isinstance(self.forward, Guarded) else ""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One input, without the batch."""
        return self.model.config.input_shape

    def account(self) -> str:
        """Which kernels it runs on, for the user."""
        return f"{self.cell.model} runs on {self.model.kernels_account}" + (", compiled by torch" if self.compiled else "")

    def labels(self, batch: int) -> tuple[str, ...]:
        """How a forward of so many images ran where that is not a matter of course: in a graph, in parts, merging in torch."""
        notes = () if self.provenance is None else self.provenance.notes
        found = ["resized positions" for note in notes if RESIZED in note]
        forward = self.forward.forward if isinstance(self.forward, Guarded) else self.forward
        if isinstance(forward, GraphedForward):
            parts = forward.parts(batch)
            graph = "cuda-graph" if parts == 1 else f"cuda-graph in {parts} parts"
            found.append(graph if forward.refused is None else f"eager: {forward.refused}")
        elif self.on_gpu:
            found.append("eager")
        if self.on_gpu and self.model.merge_path.startswith("torch"):
            found.append(f"merging in {self.model.merge_path}")
        return tuple(found)


def build(cell: Cell, plan: BenchPlan, setting: Setting, resolved: Resolved) -> BuiltArm:
    """Build one arm on its device. Raises what `create_model` and `load_state` raise, and `CheckpointError` for a file that
    is not the one that was resolved."""
    torch.manual_seed(plan.seed)  # random weights are the same for every r
    classes = resolved.num_classes
    backend = PLAIN if setting.backend == "auto" and cell.model.startswith(COMPILE) else setting.backend
    model = create_model(uncompiled(cell.model), reduction=cell.reduction, backend=backend, num_classes=classes)
    weights = resolved.weights[cell.name]
    provenance = loaded(model, weights)
    model = model.to(setting.device.torch_device, setting.dtype).eval().freeze()  # nobody changes these weights any more
    _ = model.kernels_name  # refuse a backend that cannot run before anything is measured
    return arm_of(cell, model, setting, weights, provenance)


def arm_of(
    cell: Cell, model: ReducedModel | ForeignModel, setting: Setting, weights: Weights, provenance: Provenance | None
) -> BuiltArm:
    """The arm of a model that is on its device: compiled if its name says so, in CUDA graphs if the setting does, and guarded
    where a program that is not ours may fail."""
    compiled = CompiledForward(model) if cell.model.startswith(COMPILE) else None
    forward: Callable[[Tensor], Tensor] = compiled or model
    if setting.graphs:
        forward = GraphedForward(model, forward, parts=1 if compiled else None)  # what is compiled takes full batches
    if compiled or isinstance(model, ForeignModel):
        own = isinstance(model, ForeignModel) and model.kernels_name == "own"  # gives as many classes as it likes
        forward = Guarded(forward, None if own else model.config.num_classes)
    on_gpu = setting.device.kind == "cuda"
    return BuiltArm(cell, model, weights.label, provenance, forward, weights.known_by, on_gpu, compiled)


def loaded(model: ReducedModel, weights: Weights) -> Provenance | None:
    """Load an arm's weights, if it has any. Raises `CheckpointError` for a file that is not the one that was resolved."""
    if weights.path is None:
        return None
    provenance = load_state(model, weights.path, ema=weights.ema)
    if provenance.sha256 != weights.sha256:
        raise CheckpointError(f"{weights.path} was changed after the run began; put the file back, or start another run")
    return provenance


def resident_batches(shape: tuple[int, ...], data: ImageSet | None, setting: Setting, seed: int) -> list[Tensor]:
    """A few full batches of inputs of this shape on the device: real images where there is data, else standard normal noise."""
    if data is None:
        generator = torch.Generator().manual_seed(seed)
        return [setting.place(torch.randn(setting.batch_size, *shape, generator=generator)) for _ in range(RESIDENT_BATCHES)]
    batches: list[Tensor] = []
    for batch in _full_batches(data, setting.batch_size):
        batches.append(setting.place(batch))
        if len(batches) == RESIDENT_BATCHES:
            break
    return batches


def _full_batches(data: ImageSet, size: int) -> Iterator[Tensor]:
    """Batches of exactly `size` inputs, the first view of each clip; a set smaller than one batch is repeated to fill it."""
    for batch in data.batches(size):
        images = batch.images[:, 0] if data.views > 1 else batch.images
        if len(images) == size:
            yield images
        elif batch.start == 0:
            yield images.repeat(-(-size // len(images)), *(1,) * (images.dim() - 1))[:size]


class Step:
    """One forward of the next resident batch, as the timing loop calls it."""

    def __init__(self, forward: Callable[[Tensor], Tensor], batches: list[Tensor]) -> None:
        self._forward = forward
        self._batches = cycle(batches)

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        """Logits [B, classes], still on the device."""
        return self._forward(next(self._batches))
