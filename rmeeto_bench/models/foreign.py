"""A classifier that is not ours, with as much of a model's interface as timing and evaluating need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import OutOfMemoryError, Tensor, nn

from rmeeto_bench.errors import ArmError, in_one_line
from rmeeto_bench.reduction.config import ReductionConfig


@dataclass(frozen=True)
class ForeignConfig:
    """What is known of its sizes."""

    # One input, without the batch.
    input_shape: tuple[int, ...]
    # Outputs for each input.
    num_classes: int


class ForeignModel(nn.Module):
    """`inner` (a module or a callable): images [B, *input_shape] -> logits [B, num_classes]. Nothing is known of its tokens."""

    def __init__(self, inner: Callable[[Tensor], Tensor], config: ForeignConfig, kernels_name: str) -> None:
        super().__init__()
        self.inner, self.config, self.kernels_name = inner, config, kernels_name
        self.reduction = ReductionConfig()
        self.frozen = object()  # nobody changes its weights while it is measured
        self.merge_path = "none"

    @property
    def kernels_account(self) -> str:
        """Whose program it is."""
        return "torch, as timm wrote it" if self.kernels_name == "timm" else "what its own code calls"

    def token_counts(self) -> tuple[int, ...]:
        """Not known."""
        return ()

    planned_token_counts = token_counts

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, *input_shape] -> logits [B, num_classes]."""
        return self.inner(images)


class Guarded:
    """A program of others that may fail at any call: its first failure is kept, and it is not called again.

    From then on it gives its last logits, so that the arms beside it go on; whoever measures it looks at `failure` in the end.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], num_classes: int | None = None) -> None:
        self.forward = forward
        self.num_classes = num_classes  # of the logits; None: as many as the first call gives
        self.failure = ""
        self._last: Tensor | None = None

    def __call__(self, images: Tensor, by: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Images [B, ...] -> logits [B, classes], through the program or another form of it. Raises `ArmError` if it never gave
        any, and `torch.OutOfMemoryError`."""
        if not self.failure:
            try:
                self._last = self._checked((by or self.forward)(images), len(images))
            except OutOfMemoryError:
                raise
            except (Exception, SystemExit) as error:
                self.failure = in_one_line(error)
        if self._last is None:
            raise ArmError(self.failure)
        return self._last[: len(images)] if len(self._last) >= len(images) else self._last[:1].expand(len(images), -1)

    def _checked(self, logits: Tensor, batch: int) -> Tensor:
        classes = self.num_classes
        if not isinstance(logits, Tensor):
            raise ArmError(f"it returned {type(logits).__name__}, not a tensor of logits [{batch}, {classes or 'classes'}]")
        if logits.dim() != 2 or len(logits) != batch or (classes is not None and logits.shape[1] != classes):
            raise ArmError(f"it returned logits {list(logits.shape)}, not [{batch}, {classes or 'classes'}]")
        self.num_classes = logits.shape[1]
        return logits
