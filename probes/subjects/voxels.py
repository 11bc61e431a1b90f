"""Synthetic subjects in the manner of functional imaging, with a known common cause.

A stimulus is z in R^64; subject s answers softplus(smooth(W_s z) + b_s) + noise, smoothed along the
index as cortex is, three times; training uses the single answers, testing their mean. The meaning is
a fixed small network's output for z, of unit norm. Anchors are answered once, as in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..errors import OptionError
from .data import Subject, standardise

WIDTHS = (1572, 1428, 1304, 1268)
"""Widths of the default subjects, a tenth of the data set's four."""
N_REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelOptions:
    """Synthetic subjects."""

    widths: tuple[int, ...] = WIDTHS
    """Voxels of each subject."""
    n_train: int = 1000
    """Stimuli each subject sees, no two subjects the same ones."""
    n_test: int = 200
    """Held-out stimuli, the same for all."""
    n_anchors: int = 128
    """Further stimuli that all saw, whose meanings nobody uses; 0 for none."""
    d_cause: int = 64
    """Width of z."""
    d_semantic: int = 64
    """Width of the meaning."""
    smoothing: float = 4.0
    """Standard deviation of the smoothing along the index, voxels."""
    noise: float = 1.0
    """Standard deviation of a single answer's noise, in units of the noiseless answers'."""
    seed: int = 0
    """Draws everything."""

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 2:
            raise OptionError(f"widths must be at least 2, got {self.widths}.")
        if min(self.n_train, self.n_test, self.d_cause, self.d_semantic) < 1:
            raise OptionError("numbers of stimuli and widths must be positive.")
        if min(self.n_anchors, self.noise) < 0:
            raise OptionError("n_anchors and noise must be at least 0.")


def voxel_subjects(options: VoxelOptions | None = None) -> list[Subject]:
    """Draw subjects that see different stimuli of one kind."""
    options = options or VoxelOptions()
    generator = torch.Generator().manual_seed(options.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    first = normal(options.d_cause, 2 * options.d_cause) / options.d_cause**0.5
    second = normal(2 * options.d_cause, options.d_semantic) / (2 * options.d_cause) ** 0.5

    def meaning(cause: Tensor) -> Tensor:
        return F.normalize(F.gelu(cause @ first) @ second, dim=1)

    shared = normal(options.n_test, options.d_cause)
    # Of its own, so that stimuli are the same with and without anchors.
    apart = torch.Generator().manual_seed(options.seed + 1)
    third = torch.randn(options.n_anchors, options.d_cause, generator=apart)
    subjects = []
    for number, width in enumerate(options.widths, start=1):
        weight = smooth(normal(options.d_cause, width) / options.d_cause**0.5, options.smoothing)
        weight = weight / weight.std() / options.d_cause**0.5
        bias = 0.5 * normal(width)
        own = normal(options.n_train, options.d_cause)
        clean = [F.softplus(cause @ weight + bias) for cause in (own, shared, third)]
        spread = options.noise * clean[0].std(0)
        train = clean[0] + spread * normal(*clean[0].shape)
        repeats = torch.stack([
            clean[1] + spread * normal(*clean[1].shape) for _ in range(N_REPEATS)
        ])
        noise = torch.randn(clean[2].shape, generator=apart)
        signals = standardise(train, repeats.mean(0), clean[2] + spread * noise)
        subjects.append(
            Subject(
                f"subject {number}", signals[0], meaning(own), signals[1], meaning(shared),
                signals[2] if options.n_anchors else None,
            )
        )  # fmt: skip
    return subjects


def smooth(signal: Float[Tensor, "rows width"], sigma: float) -> Float[Tensor, "rows width"]:
    """Gaussian smoothing along the index, edges repeated.

    Args:
        signal: Rows to smooth.
        sigma: Standard deviation in positions; 0 leaves them.
    """
    if sigma == 0:
        return signal
    reach = max(int(3 * sigma), 1)
    offsets = torch.arange(-reach, reach + 1, dtype=signal.dtype)
    kernel = (-0.5 * (offsets / sigma).square()).exp()
    padded = F.pad(signal[:, None], (reach, reach), mode="replicate")
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0]
