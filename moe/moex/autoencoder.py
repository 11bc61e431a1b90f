"""A small TopK sparse autoencoder (arXiv 2406.04093), the dense models' rival in the comparison.

latents = TopK(ReLU(encoder (x - b_dec) + b_enc)), reconstruction = decoder latents + b_dec; mean
squared error; decoder columns of length one. Deviation: no auxiliary loss for dead latents; their share
is reported. For work on autoencoders use the `sae` room.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...probes.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderOptions:
    """How the autoencoder is made and taught."""

    n_latents: int = 1024
    """Width of the code."""
    n_active: int = 32
    """Latents that may be above zero per row."""
    steps: int = 600
    """Adam steps."""
    n_rows: int = 1024
    """Rows of a batch."""
    rate: float = 2e-3
    """Learning rate."""
    seed: int = 0
    """Seed of weights and batches."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_active <= self.n_latents or min(self.steps, self.n_rows) < 1:
            raise OptionError(
                "n_active must be from 1 to n_latents, steps and n_rows at least 1, got "
                f"{self.n_active}, {self.n_latents}, {self.steps} and {self.n_rows}."
            )


class TopKAutoencoder(nn.Module):
    """Encoder and decoder."""

    def __init__(self, d_model: int, options: AutoencoderOptions) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(options.seed)
        decoder = torch.randn(options.n_latents, d_model, generator=generator)
        decoder = decoder / decoder.norm(dim=1, keepdim=True)
        self.n_active = options.n_active
        self.decoder = nn.Parameter(decoder)
        self.encoder = nn.Parameter(decoder.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(options.n_latents))
        self.decoder_bias = nn.Parameter(torch.zeros(d_model))

    def encode(self, rows: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows latents"]:
        """Latents, at most n_active of a row above zero."""
        before = (rows - self.decoder_bias) @ self.encoder.T + self.encoder_bias
        top = before.topk(self.n_active, dim=-1)
        return torch.zeros_like(before).scatter(-1, top.indices, top.values.relu())

    def forward(self, rows: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_model"]:
        """Rows as the code holds them."""
        return self.encode(rows) @ self.decoder + self.decoder_bias


def fit_autoencoder(
    rows: Float[Tensor, "rows d_model"], options: AutoencoderOptions | None = None
) -> TopKAutoencoder:
    """Teach an autoencoder on rows of a residual stream."""
    options = options or AutoencoderOptions()
    made = TopKAutoencoder(rows.shape[1], options).to(rows.dtype)
    generator = torch.Generator().manual_seed(options.seed)
    with torch.no_grad():
        made.decoder_bias.copy_(rows.mean(0))
    optimizer = torch.optim.Adam(made.parameters(), lr=options.rate)
    scale = float(rows.var(0, correction=0).sum().clamp(min=1e-12))
    for step in range(options.steps):
        optimizer.param_groups[0]["lr"] = options.rate * min(1.0, 5 * (1 - step / options.steps))
        batch = rows[torch.randint(len(rows), (options.n_rows,), generator=generator)]
        loss = (made(batch) - batch).square().sum(-1).mean() / scale
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            made.decoder.div_(made.decoder.norm(dim=1, keepdim=True).clamp(min=1e-12))
    return made.eval()
