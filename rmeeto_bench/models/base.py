"""The interface of every model: its sizes, its reduction, the tokens per block of the last forward, and logits."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from rmeeto_bench.models.sizes import DeitConfig, VimConfig
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import reduction_ratio


class ReducedModel(nn.Module):
    """A classifier that reduces its tokens on the way. `reduction.r = 0` is the plain model of the family."""

    config: VimConfig | DeitConfig
    reduction: ReductionConfig
    cls_token: nn.Parameter
    head: nn.Linear
    _last_counts: tuple[int, ...] | None = None
    frozen: object | None = None  # a token of its own for each `freeze`; None while the weights may change

    def set_reduction(self, reduction: ReductionConfig) -> None:
        """Change how tokens are reduced; the weights stay. Raises `UsageError` for what the family does not have."""
        raise NotImplementedError

    def freeze(self) -> Self:
        """Promise, for timing, that the weights will not change. Tensors derived from them are then kept between forwards.

        Loading weights, moving the model or training it takes the promise back. Any other change is not noticed.
        """
        self._tell_modules("freeze")
        self.frozen = object()
        return self

    def thaw(self) -> None:
        """Withdraw the promise of `freeze`: every forward reads the current weights again."""
        if self.frozen is not None:
            self._tell_modules("thaw")
            self.frozen = None

    def _tell_modules(self, what: str) -> None:
        for module in self.modules():
            if module is not self and hasattr(module, what):
                getattr(module, what)()

    def _apply(self, *arguments: Any, **options: Any) -> Self:
        self.thaw()
        return super()._apply(*arguments, **options)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Thaw the model, then load as torch does."""
        self.thaw()
        return super().load_state_dict(*arguments, **options)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002  torch's signature
        """Switch the mode as torch does; a model in training mode is thawed."""
        if mode:
            self.thaw()
        return super().train(mode)

    @property
    def kernels_name(self) -> str:
        """The backend that serves this model on its current device. Raises `UnavailableError` if none can."""
        raise NotImplementedError

    @property
    def kernels_account(self) -> str:
        """Which kernels serve this model, and why no faster ones, in one line."""
        return f"{self.kernels_name} kernels"

    @property
    def merge_path(self) -> str:
        """`none`, `fused` (matching and merging in two kernels at inference), or `torch: ` and why."""
        raise NotImplementedError

    def token_counts(self) -> tuple[int, ...]:
        """Tokens entering each block: realised in the last forward, or by the schedule before the first."""
        return self._last_counts or self.planned_token_counts()

    def planned_token_counts(self) -> tuple[int, ...]:
        """Tokens entering each block by the schedule (paper Table 10)."""
        return self.config.token_counts(self.reduction)

    @property
    def reduction_ratio(self) -> float:
        """1 - mean tokens per block / initial tokens (paper Table 10)."""
        return reduction_ratio(self.token_counts(), self.config.num_tokens)

    def forward_tokens(self, images: Tensor, *, track_source: bool = False) -> Any:
        """Run all blocks: the tokens of the last one, before the final norm; `sources` of every block where tracked."""
        raise NotImplementedError

    def forward_features(self, images: Tensor) -> Tensor:
        """The normalised class token [B, C], input of the head."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, in_chans, H, W] (or clips) -> logits [B, num_classes], in training and in evaluation."""
        return self.head(self.forward_features(images))
