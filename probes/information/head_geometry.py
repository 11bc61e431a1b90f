"""Geometry of the unembedding at a state: the Fisher-Rao metric pulled back from predictions (E6).

With p = softmax(logits(h)) and U the derivative of the logits, g(h) = U^T (diag p - p p^T) U, so that
KL(p at h + e v || p at h) = e^2/2 v^T g v + O(e^3) (arXiv 2507.19247, section 7). It factors as B^T
B with B = diag(sqrt p) (U - 1 u^T), u = U^T p; only the rows of tokens that carry mass are kept,
and dropping the others changes the trace by at most (dropped mass) * max |U_w - u|^2. No
vocabulary-by-vocabulary matrix is made, nor all of U weighted.

Correction of the paper: rank g <= d_model does not make the metric degenerate. It is positive
definite in post-norm coordinates wherever the centred rows of U span the space, and only
numerically of low rank, about as many directions as tokens share the mass. Before an RMS norm the
state itself is an exact null direction (without its epsilon), before a layer norm the all-ones
direction too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..model import Model

DROPPED = 1e-6
"""Probability whose tokens are left out of the factor."""


@dataclass(frozen=True)
class Metric:
    """The pulled-back metric at one state, by its factor."""

    factor: Float[Tensor, "tokens d_model"]
    """B, with g = B^T B."""
    token_ids: Tensor
    """Tokens the factor's rows stand for, likeliest first."""
    mean_row: Float[Tensor, " d_model"]
    """u = U^T p."""
    trace_error: float
    """Bound on what the dropped tokens would add to the trace."""

    @property
    def trace(self) -> float:
        """Sum of the eigenvalues."""
        return float(self.factor.square().sum())

    def spectrum(self) -> Float[Tensor, " d_model"]:
        """Eigenvalues, largest first, d_model of them."""
        tokens, d_model = self.factor.shape
        small = self.factor @ self.factor.T if tokens < d_model else self.factor.T @ self.factor
        values = torch.linalg.eigvalsh(small).flip(0).clamp_min(0)
        return torch.nn.functional.pad(values, (0, d_model - len(values)))

    def leading(self) -> Float[Tensor, " d_model"]:
        """The most sensitive direction, of unit length; the sign favours the likeliest token."""
        direction = torch.linalg.eigh(self.factor.T @ self.factor).eigenvectors[:, -1]
        sign = torch.sign(self.factor[0] @ direction)
        return direction * torch.where(sign == 0, torch.ones_like(sign), sign)

    def length(self, step: Float[Tensor, " d_model"]) -> float:
        """Length of a step, sqrt(v^T g v); half of its square is the KL it causes, to second order."""
        return float((self.factor @ step.to(self.factor)).norm())


def effective_rank(spectrum: Float[Tensor, " values"]) -> float:
    """The exponential of the entropy of the normalised eigenvalues."""
    share = spectrum / spectrum.sum()
    share = share[share > 0]
    return float((-(share * share.log()).sum()).exp())


def participation(spectrum: Float[Tensor, " values"]) -> float:
    """(sum of eigenvalues)^2 / sum of squares."""
    return float(spectrum.sum().square() / spectrum.square().sum())


@torch.no_grad()
def metric_at(
    model: Model,
    normed: Float[Tensor, " d_model"],
    *,
    dropped: float = DROPPED,
    dtype: torch.dtype = torch.float64,
) -> Metric:
    """The metric at a state that has passed the final norm.

    Args:
        model: An opened model with a linear unembedding.
        normed: The unembedding's input.
        dropped: Probability whose tokens are left out, at most.
        dtype: Precision of the factor.
    """
    logits = model.logits_of(normed.to(model.device, model.dtype)[None])[0].double()
    exact = logits.softmax(-1)  # in single precision the sum itself is only good to about 1e-6
    order = exact.argsort(descending=True)
    kept = order[: int((exact[order].cumsum(0) < 1 - dropped).sum()) + 1]
    probs = exact.to(dtype)
    weights = _weights(model)
    slopes = logit_slopes(model, logits).to(dtype)
    own = weights[kept]
    # The mean from the kept rows themselves, in full precision, plus what the others add.
    weighted = (probs * slopes).to(weights.dtype)
    rest = weighted @ weights - weighted[kept] @ own
    rows = own.to(dtype).mul_(slopes[kept, None])  # indexing copied them
    mean = probs[kept] @ rows + rest.to(dtype)
    factor = rows.sub_(mean).mul_(probs[kept].sqrt()[:, None])
    left_out = float(1 - exact[kept].sum())
    # |U_w - u| <= |U_w| + |u| with the longest row of all.
    longest = float(weights.norm(dim=1).max()) * float(slopes.max()) + float(mean.norm())
    return Metric(factor, kept, mean, left_out * longest**2)


def before_norm(model: Model, metric: Metric, resid: Float[Tensor, " d_model"]) -> Metric:
    """The metric in coordinates of the residual stream that enters the final norm.

    Args:
        model: The model of `metric`.
        metric: The metric at final_norm(resid).
        resid: The state before the norm.
    """
    norm = model.final_norm

    def normalise(state: Tensor) -> Tensor:
        return norm(state[None])[0]

    jacobian = torch.func.jacrev(normalise)(resid.to(model.dtype)).to(metric.factor)
    return Metric(
        metric.factor @ jacobian, metric.token_ids, metric.mean_row @ jacobian, metric.trace_error
    )


def logit_slopes(model: Model, logits: Float[Tensor, "... vocab"]) -> Float[Tensor, "... vocab"]:
    """Derivative of each logit by the unembedding's own output: scale and soft cap."""
    config = model.config
    scale = (getattr(config, "logit_scale", None) or 1) / getattr(config, "logits_scaling", 1)
    cap = getattr(config, "final_logit_softcapping", None)
    slopes = torch.full_like(logits, scale)
    return slopes if cap is None else slopes * (1 - (logits / cap).square())


class PopulationMetric:
    """The mean metric over states, from running sums.

    With W the unembedding and s the slopes of a state's logits (scale and soft cap) it is
    W^T diag(mean s^2 p) W less the mean of u u^T with u = W^T (s p), so vocabulary-sized vectors are
    all that is kept.

    Args:
        model: An opened model with a linear unembedding.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._weights = model, _weights(model).float()
        vocab, d_model = self._weights.shape
        self._squares = torch.zeros(vocab, dtype=torch.float64)
        self._outer = torch.zeros(d_model, d_model, dtype=torch.float64)
        self.n_rows = 0

    def add(self, logits: Float[Tensor, "rows vocab"]) -> None:
        """Take in the model's own logits."""
        logits = logits.float()
        slopes = logit_slopes(self._model, logits)
        weighted = logits.softmax(-1) * slopes
        means = (weighted @ self._weights).double().cpu()
        self._squares += (weighted * slopes).sum(0).double().cpu()
        self._outer += means.T @ means
        self.n_rows += len(logits)

    def spectrum(self) -> Float[Tensor, " d_model"]:
        """Eigenvalues, largest first."""
        weighted = self._weights.cpu().double() * self._squares.sqrt()[:, None]
        metric = (weighted.T @ weighted - self._outer) / self.n_rows
        return torch.linalg.eigvalsh(metric).flip(0).clamp_min(0)


def _weights(model: Model) -> Tensor:
    weights = model.unembedding.weight
    assert isinstance(weights, Tensor)
    return weights.detach()
