"""The softmax-linear probe, fitted to the end: for small problems, and as the tests' yardstick.

Its likelihood is maximised over all rows by L-BFGS, so it converges to the best member of its family
(logits = W h + b) with an excess of about parameters / (2 rows) nats. For hidden states of a real model
see `readout.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SoftmaxProbe:
    """A linear map to logits over classes."""

    weights: Float[Tensor, "features classes"]
    bias: Float[Tensor, " classes"]

    def log_probs(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows classes"]:
        """Log-probabilities of the classes, nats."""
        return (rows @ self.weights + self.bias).log_softmax(-1)

    def losses(
        self, rows: Float[Tensor, "rows features"], classes: Int64[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """Cross-entropy of each row, nats."""
        return functional.cross_entropy(rows @ self.weights + self.bias, classes, reduction="none")


def class_law(classes: Int64[Tensor, " rows"], n_classes: int) -> Float[Tensor, " classes"]:
    """Frequencies with half a count more for every class, so that none is impossible."""
    counts = torch.bincount(classes, minlength=n_classes).double() + 0.5
    return counts / counts.sum()


def fit_by_likelihood(
    rows: Float[Tensor, "rows features"],
    classes: Int64[Tensor, " rows"],
    n_classes: int,
    *,
    ridge: float = 1e-6,
    max_steps: int = 200,
) -> SoftmaxProbe:
    """The likeliest softmax-linear probe, by L-BFGS in the rows' precision.

    Args:
        rows: Features.
        classes: What to predict.
        n_classes: How many classes there are.
        ridge: Weight of the squared norm of the weights in the mean loss.
        max_steps: Most iterations.
    """
    weights = torch.zeros(rows.shape[1], n_classes, dtype=rows.dtype, requires_grad=True)
    bias = class_law(classes, n_classes).log().to(rows.dtype).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weights, bias], max_iter=max_steps, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(rows @ weights + bias, classes)
        loss = loss + ridge * weights.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return SoftmaxProbe(weights.detach(), bias.detach())
