"""The tuned lens (arXiv 2303.08112): an affine translator per layer, trained to the final prediction.

A layer's stream x becomes x + A x + b before the final norm and the unembedding. A and b begin at
zero, so the lens begins as the logit lens and weight decay pulls it back there (the residual form of
the authors' code, not the paper's formula). The loss is KL(final || lens) at the same position; SGD
with Nesterov momentum, linearly falling learning rate, gradients clipped.

Deviations: the learning rate per step is chosen for batches of a few thousand tokens instead of
2^18; the last layer gets no translator, its lens is the model's own prediction.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..capture import capture
from ..digest import tensors_digest
from ..errors import DamagedModelError, OptionError, RunMismatchError
from ..model import Model
from .lens import lens_scores
from .texts import Texts

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedLensOptions:
    """How a tuned lens is trained."""

    n_steps: int = 250
    """Optimiser steps (the authors' number)."""
    batch_tokens: int = 512
    """Tokens per step."""
    learning_rate: float = 0.1
    """First learning rate (the authors': 1.0 x (1 - momentum)); falls linearly to zero."""
    momentum: float = 0.9
    """Nesterov momentum (the authors' number)."""
    weight_decay: float = 1e-3
    """Pull towards the logit lens (the authors' number)."""
    clip: float = 1.0
    """Largest gradient norm per layer (the authors' number)."""
    seed: int = 0
    """Order of the texts."""

    def __post_init__(self) -> None:
        if self.n_steps < 1 or self.batch_tokens < 2 or self.learning_rate <= 0:
            raise OptionError(
                "n_steps must be at least 1, batch_tokens at least 2 and learning_rate positive, got "
                f"{self.n_steps}, {self.batch_tokens}, {self.learning_rate}."
            )


class TunedLens(nn.Module):
    """Translators for every layer but the last.

    Args:
        n_layers: Layers of the model.
        d_model: Width of its residual stream.
        unembedding_digest: SHA-256 of the unembedding and final norm it is trained for.
    """

    def __init__(self, n_layers: int, d_model: int, unembedding_digest: str) -> None:
        super().__init__()
        self.unembedding_digest = unembedding_digest
        self.matrices = nn.ParameterList(
            nn.Parameter(torch.zeros(d_model, d_model)) for _ in range(n_layers - 1)
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(d_model)) for _ in range(n_layers - 1)
        )

    def forward(
        self, layer: int, resid: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """The stream as the last layer would leave it, as far as an affine map can tell."""
        if layer >= len(self.matrices):
            return resid
        matrix, bias = self.matrices[layer], self.biases[layer]
        return resid + resid @ matrix.T.to(resid) + bias.to(resid)

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors) and what they are bound to (JSON)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "tuned_lens.safetensors")
        about = {
            "n_layers": len(self.matrices) + 1,
            "d_model": self.biases[0].shape[0],
            "unembedding_digest": self.unembedding_digest,
        }
        (folder / "tuned_lens.json").write_text(json.dumps(about, indent=2))

    @classmethod
    def load(cls, folder: str | Path, model: Model) -> TunedLens:
        """Read a lens for `model`.

        Raises:
            DamagedModelError: Files are missing or broken.
            RunMismatchError: It was trained for another unembedding.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / "tuned_lens.json").read_text())
            weights = load_file(folder / "tuned_lens.safetensors")
            lens = cls(about["n_layers"], about["d_model"], about["unembedding_digest"])
            lens.load_state_dict(weights)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise DamagedModelError(
                f"{folder.name} holds no readable tuned lens: {error}"
            ) from error
        digest = unembedding_digest(model)
        if lens.unembedding_digest != digest:
            raise RunMismatchError(
                f"The tuned lens in {folder.name} was trained for an unembedding with digest "
                f"{lens.unembedding_digest[:12]}, {model.name} has {digest[:12]}. Train one for it."
            )
        return lens.to(model.device)


def unembedding_digest(model: Model) -> str:
    """SHA-256 of the final norm and the unembedding."""
    parts = {"norm": model.final_norm, "head": model.unembedding}
    tensors = [
        (f"{part}.{name}", tensor)
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    ]
    return tensors_digest(tensors)


def train_tuned_lens(
    model: Model,
    texts: Texts,
    options: TunedLensOptions | None = None,
    *,
    progress: Progress | None = None,
) -> TunedLens:
    """Train a tuned lens on texts.

    Args:
        model: An opened model; its weights are not touched.
        texts: What to train on; read again from the start when they run out.
        options: The recipe.
        progress: Called after every step with the mean KL over layers.
    """
    chosen = options or TunedLensOptions()
    lens = TunedLens(model.n_layers, model.d_model, unembedding_digest(model)).to(model.device)
    optimiser = torch.optim.SGD(
        lens.parameters(),
        lr=chosen.learning_rate,
        momentum=chosen.momentum,
        weight_decay=chosen.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimiser, start_factor=1.0, end_factor=1 / chosen.n_steps, total_iters=chosen.n_steps
    )
    order = torch.Generator().manual_seed(chosen.seed)
    for step in range(chosen.n_steps):
        kl = _step(model, lens, _draw(texts, chosen.batch_tokens, order), chosen)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        if progress is not None:
            progress(step + 1, chosen.n_steps, f"KL {kl:.2f} nats")
    return lens.requires_grad_(requires_grad=False)


def _step(model: Model, lens: TunedLens, ids: list[Tensor], options: TunedLensOptions) -> float:
    """Gradients of one batch, layer by layer so that only one layer's logits are held."""
    with torch.no_grad(), capture(model, "layers.*.resid_post") as acts:
        final = [model(row[None], use_cache=False).logits[0].float().log_softmax(-1) for row in ids]
    target = torch.cat(final)
    total = 0.0
    for layer in range(len(lens.matrices)):
        resid = torch.cat([chunk[0] for chunk in acts.chunks(f"layers.{layer}.resid_post")])
        kl = lens_scores(model.unembed(lens(layer, resid)), target)[0].mean()
        parameters = [lens.matrices[layer], lens.biases[layer]]
        gradients = torch.autograd.grad(kl, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, options.clip)
        total += kl.item()
    return total / max(len(lens.matrices), 1)


def _draw(texts: Texts, n_tokens: int, generator: torch.Generator) -> list[Tensor]:
    drawn: list[Tensor] = []
    while sum(len(row) for row in drawn) < n_tokens:
        number = int(torch.randint(len(texts), (1,), generator=generator))
        drawn.append(torch.from_numpy(texts.ids[number])[:n_tokens])
    return drawn
