"""JumpReLU: a learned threshold for each latent, trained on L0 itself (arXiv 2407.14435).

    p = (x - b_dec) W_enc + b_enc;   z = p 1[p > theta]

Neither the jump nor the count has a useful gradient in theta; both get a straight-through estimate with
a rectangular kernel K of width `bandwidth` (equations 11 and 12):
    dz/dtheta = -(theta / width) K((p - theta) / width),    dL0/dtheta = -(1 / width) K(...)
The estimates see pre-activations on both sides of the threshold (dictionary_learning's see only those
above). Penalties: `target` (L0 / target - 1)^2, `step` L0, `tanh` sum tanh(4 z |d|) with a small
pull of thresholds towards pre-activations and estimates that reach all weights (Anthropic, January
2025). Thresholds are learned themselves, not their logarithms as in the paper (dictionary_learning's
way, whose rates and widths for rows of mean square norm 1 are the defaults), and kept at least 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..probes.errors import OptionError
from .base import SparseAutoencoder
from .codes import Codes, at_least_float32
from .options import SaeOptions
from .output import TrainingState

TANH_SLOPE = 4.0
"""c in tanh(c z |d|) (Anthropic, January 2025)."""
PULL = 3e-6
"""Coefficient of relu(theta - p) |d| (the same)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpReluOptions(SaeOptions):
    """Options of JumpReLU."""

    penalty: Literal["target", "step", "tanh"] = "target"
    """What is penalised: the distance from a wanted L0, L0 itself, or a smooth count."""
    k: float = 32
    """Wanted L0, for `target`."""
    sparsity: float = 1.0
    """Coefficient of the penalty: 1 for `target`, about 1e-3 for `step`, 5 to 10 for `tanh`."""
    bandwidth: float = 0.001
    """Width of the kernel."""
    initial_threshold: float = 0.001
    """Every threshold at the beginning."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        SaeOptions.__post_init__(self)
        for name in ("k", "bandwidth", "initial_threshold"):
            if getattr(self, name) <= 0:
                raise OptionError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.sparsity < 0:
            raise OptionError(f"sparsity must be at least 0, got {self.sparsity}.")


class JumpReluSae(SparseAutoencoder):
    """JumpReLU autoencoder."""

    architecture: ClassVar[str] = "jumprelu"
    Options: ClassVar[type[SaeOptions]] = JumpReluOptions
    options: JumpReluOptions
    dense_codes: ClassVar[bool] = True

    def _make_encoder(self, atoms: Tensor, generator: torch.Generator) -> None:
        super()._make_encoder(atoms, generator)
        start = self.options.initial_threshold
        self.threshold = nn.Parameter(torch.full((self.d_sae,), start))

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep thresholds at least 0."""
        self.threshold.clamp_(min=0.0)

    def _pre_activations(self, rows: Tensor) -> Tensor:
        return at_least_float32(self.centred(rows) @ self.W_enc + self.b_enc)

    def _inference_codes(self, rows: Tensor) -> Codes:
        pre = self._pre_activations(rows)
        return torch.where(pre > self.threshold, pre, 0.0)

    def _training_codes(self, rows: Tensor, state: TrainingState) -> tuple[Codes, Any]:
        pre = self._pre_activations(rows)
        through = self.options.penalty == "tanh"
        return jump(pre, self.threshold, self.options.bandwidth, through_pre=through), pre

    def _other_losses(
        self, rows: Tensor, target: Tensor, reconstruction: Tensor, codes: Codes, extra: Any,
        state: TrainingState,
    ) -> dict[str, Tensor]:  # fmt: skip
        assert isinstance(codes, Tensor)
        weight = self.options.sparsity * state.sparsity
        if self.options.penalty == "tanh":
            norms = self.W_dec.norm(dim=1)
            smooth = torch.tanh(TANH_SLOPE * codes * norms).sum(-1).mean()
            pull = (torch.relu(self.threshold - extra) * norms).sum(-1).mean()
            return {"sparsity": weight * smooth, "pull": PULL * pull}
        return {} if self.options.penalty == "target" else {"sparsity": weight * self._l0(extra)}

    def _l0(self, pre: Tensor) -> Tensor:
        return step(pre, self.threshold, self.options.bandwidth).sum(-1).mean()

    def _means(self, extra: Any) -> dict[str, Tensor]:
        return {"sparsity": self._l0(extra)} if self.options.penalty == "target" else {}

    def losses_of_means(
        self, means: Mapping[str, Tensor], state: TrainingState
    ) -> dict[str, Tensor]:
        """The penalty on the distance of the batch's L0 from the wanted one."""
        weight = self.options.sparsity * state.sparsity
        return {name: weight * (l0 / self.options.k - 1).square() for name, l0 in means.items()}

    def _reset_biases(self, which: Tensor) -> None:
        super()._reset_biases(which)
        self.threshold[which] = self.options.initial_threshold

    def _scale_codes(self, factor: Tensor) -> None:
        super()._scale_codes(factor)
        self.threshold.mul_(factor)

    def _scale_encoder_bias(self, factor: float) -> None:
        super()._scale_encoder_bias(factor)
        self.threshold.mul_(factor)


def jump(pre: Tensor, threshold: Tensor, bandwidth: float, *, through_pre: bool = False) -> Tensor:
    """Pre where it exceeds the threshold, else 0, with the straight-through gradient.

    Args:
        pre: Pre-activations [rows, latents].
        threshold: One for each latent.
        bandwidth: Width of the kernel.
        through_pre: Whether the estimate also reaches the pre-activation.
    """
    return _Jump.apply(pre, threshold, bandwidth, through_pre)  # pyright: ignore[reportReturnType]


def step(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 where pre exceeds the threshold, else 0; its gradient reaches the threshold only."""
    return _Step.apply(pre, threshold, bandwidth)  # pyright: ignore[reportReturnType]


def _kernel(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((pre - threshold).abs() < bandwidth / 2).to(pre)


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float, through_pre: bool  # noqa: FBT001
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.through_pre = bandwidth, through_pre
        return torch.where(pre > threshold, pre, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        pre, threshold = ctx.saved_tensors
        of_pre = torch.where(pre > threshold, grads[0], 0.0)
        near = grads[0] * _kernel(pre, threshold, ctx.bandwidth) * (threshold / ctx.bandwidth)
        if ctx.through_pre:
            of_pre = of_pre + near
        return of_pre, -near.sum(0), None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        pre, threshold = ctx.saved_tensors
        near = grads[0] * _kernel(pre, threshold, ctx.bandwidth) / ctx.bandwidth
        return None, -near.sum(0), None
