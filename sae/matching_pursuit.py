"""Matching pursuit over a dictionary, unrolled and differentiable (MP-SAE, arXiv 2506.03093).

    r_0 = x;   j_t = argmax_j r_t . d_j;   v_t = relu(r_t . d_{j_t});   r_{t+1} = r_t - v_t d_{j_t}

The argument of the maximum is signed, and no gradient passes through it; gradients pass through the
values and the whole recursion of residuals. An atom can be chosen again; its values add up. A row
stops when its best correlation is not positive, when its residual is short enough, or, if asked,
when an atom is chosen again (after its contribution is added).

Two ways to the same indices. `gram` keeps all correlations c of a stretch of rows and corrects them by
c -= v G[j] with the Gram matrix G = D D^T, which costs latents instead of latents x width per row and
step; `direct` multiplies the residual with the dictionary at each step, a block of atoms at a time, in
memory that does not grow with the dictionary. Either way values and residuals come from the chosen
atoms themselves, so that rounding in c can only swap near-ties.

The backward pass is the recursion reversed (g_t is the gradient of r_t, h_t that of v_t):
    a_t = 1[v_t > 0] (h_t - g_{t+1} . d_j);  g_t = g_{t+1} + a_t d_j;  grad d_j += a_t r_t - v_t g_{t+1}
with residuals rebuilt on the way, so that nothing of size rows x steps x width is kept between passes.

`matching_pursuit` is a free function: it also finds codes for any other autoencoder's atoms
(inference-time optimisation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ..probes.errors import OptionError
from .codes import SparseCodes
from .scratch import scratch
from .select import first_argmax

Method = Literal["auto", "gram", "direct"]
"""How the best atom is found: see the module's text."""

GRAM_BYTES = 2**30
"""Largest Gram matrix that `auto` makes (16,384 atoms in float32)."""
GRAM_ROWS, GRAM_TILE = 512, 256
"""Rows of the Gram matrix computed at a time, and columns of them mirrored at a time."""
GRAM_COST, CORRECTION_COST = 1.2, 50
"""Cost of a Gram matrix over that of half a dense product, and of correcting one correlation in
multiplications (measured on one CPU core): what `auto` weighs against 2 d multiplications each."""
STRETCH_FLOATS = 2**20
"""Correlations corrected at a time on a CPU: with what is subtracted they stay in the cache."""
BLOCK_FLOATS = 2**21
"""Correlations that the direct way holds at a time."""
BACKWARD_ROWS, BACKWARD_FLOATS = 1024, 2**26
"""Rows, and floats, of the dictionary's gradient that are held at a time."""


@dataclass(frozen=True, kw_only=True)
class PursuitOptions:
    """When a pursuit ends, and how it searches."""

    n_steps: int
    """At most so many steps."""
    tolerance: float = 0.0
    """A row stops when its residual is shorter than this; 0: never."""
    relative_tolerance: float = 0.0
    """A row stops when its residual is shorter than this share of the row; 0: never."""
    stop_on_repeat: bool = False
    """Whether a row stops when an atom is chosen again."""
    method: Method = "auto"
    """How the best atom is found."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.n_steps < 1:
            raise OptionError(f"n_steps must be at least 1, got {self.n_steps}.")
        if self.tolerance < 0 or not 0 <= self.relative_tolerance < 1:
            raise OptionError(
                "tolerance must be at least 0 and relative_tolerance from 0 to 1, got "
                f"{self.tolerance}, {self.relative_tolerance}."
            )


@dataclass(frozen=True, eq=False)
class PursuitPath:
    """Which atoms were taken from each row, in order."""

    indices: Int64[Tensor, "rows steps"]
    """Atom of each step; 0 where none was taken."""
    values: Float[Tensor, "rows steps"]
    """What was taken of it; 0 where none was."""
    residual_norms: Float[Tensor, "rows steps_plus_1"]
    """Length of the residual before the first step and after each."""
    residual: Float[Tensor, "rows d"]
    """What is left after the last step."""
    d_sae: int
    """Atoms in the dictionary."""

    @property
    def n_steps(self) -> Int64[Tensor, " rows"]:
        """Steps that took something."""
        return (self.values != 0).sum(1)

    @property
    def repeats(self) -> Bool[Tensor, "rows steps"]:
        """Steps whose atom had been taken before."""
        taken = self.values != 0
        marked = torch.where(taken, self.indices, -1)
        again = torch.zeros_like(taken)
        for step in range(1, marked.shape[1]):
            again[:, step] = (marked[:, :step] == marked[:, step : step + 1]).any(1)
        return again & taken

    def truncated(
        self, n_steps: int, rows: Float[Tensor, "rows d"], dictionary: Tensor
    ) -> PursuitPath:
        """The path after its first steps: what a shorter pursuit of the same rows gives.

        Args:
            n_steps: Steps to keep.
            rows: What was pursued.
            dictionary: Its atoms.
        """
        values, indices = self.values[:, :n_steps], self.indices[:, :n_steps]
        taken = torch.einsum("bt,btd->bd", values, dictionary[indices])
        return PursuitPath(
            indices, values, self.residual_norms[:, : n_steps + 1], rows - taken, self.d_sae
        )

    def codes(self, leading: tuple[int, ...] | None = None) -> SparseCodes:
        """Codes, values of an atom taken several times added up.

        Args:
            leading: Shape of the input without its last axis; None: one axis of rows.
        """
        n_rows, n_steps = self.values.shape
        taken = self.values != 0
        marked, order = torch.where(taken, self.indices, self.d_sae).sort(dim=1, stable=True)
        values = self.values.gather(1, order)
        first = torch.ones_like(taken)
        first[:, 1:] = marked[:, 1:] != marked[:, :-1]
        group = first.long().cumsum(1) - 1 + torch.arange(
            n_rows, device=values.device
        )[:, None] * n_steps  # fmt: skip
        sums = values.new_zeros(n_rows * n_steps).index_add(0, group.flatten(), values.flatten())
        kept = first & (marked < self.d_sae)
        counts = kept.sum(1)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return SparseCodes(
            sums[group[kept]], marked[kept], offsets, self.d_sae, leading or (n_rows,)
        )


def matching_pursuit(
    rows: Float[Tensor, "rows d"],
    dictionary: Float[Tensor, "latents width"],
    *,
    n_steps: int,
    tolerance: float = 0.0,
    relative_tolerance: float = 0.0,
    stop_on_repeat: bool = False,
    method: Method = "auto",
) -> PursuitPath:
    """Greedy non-negative codes of rows over a dictionary; differentiable in both.

    Residuals never grow while every atom's squared length is at most 2.

    Args:
        rows: What is rebuilt.
        dictionary: Its rows are the atoms.
        n_steps: At most so many steps.
        tolerance: A row stops when its residual is shorter than this; 0: never.
        relative_tolerance: A row stops when it is shorter than this share of the row; 0: never.
        stop_on_repeat: Whether a row stops when an atom is chosen again.
        method: How the best atom is found.

    Raises:
        OptionError: An option is out of range or the widths differ.

    References:
        arXiv 2506.03093, section 4 (no gradient through the choice; signed maximum, rectified value,
        as in the authors' code).
    """
    options = PursuitOptions(
        n_steps=n_steps, tolerance=tolerance, relative_tolerance=relative_tolerance,
        stop_on_repeat=stop_on_repeat, method=method,
    )  # fmt: skip
    if rows.shape[1] != dictionary.shape[1]:
        raise OptionError(
            f"Rows and atoms must be equally wide, got {rows.shape[1]} and {dictionary.shape[1]}."
        )
    found: Any = _Pursuit.apply(rows, dictionary, options)
    values, residual, indices, norms = found
    return PursuitPath(indices, values, norms, residual, len(dictionary))


def gram_matrix(dictionary: Float[Tensor, "latents d"]) -> Float[Tensor, "latents latents"]:
    """All products of atoms; each is computed once and mirrored."""
    n = len(dictionary)
    gram = scratch(n, n, like=dictionary)
    for start in range(0, n, GRAM_ROWS):
        part = slice(start, start + GRAM_ROWS)
        torch.mm(dictionary[part], dictionary[start:].t(), out=gram[part, start:])
        for left in range(start + GRAM_ROWS, n, GRAM_TILE):
            tile = gram[part, left : left + GRAM_TILE].contiguous()  # torch turns whole tiles fast
            gram[left : left + GRAM_TILE, part] = tile.t().contiguous()
    return gram


def uses_gram(rows: Tensor, dictionary: Tensor, options: PursuitOptions) -> bool:
    """Whether the best atoms are found by a Gram matrix: asked for, or it fits and is cheaper."""
    if options.method != "auto":
        return options.method == "gram"
    n, d = dictionary.shape
    picks = options.n_steps * len(rows)
    fits = n * n * dictionary.element_size() <= GRAM_BYTES
    return fits and GRAM_COST * n * d + CORRECTION_COST * picks < 2 * picks * d


class _Chooser:
    """The best atom of each row of a stretch, step after step."""

    def __init__(self, residual: Tensor, dictionary: Tensor, gram: Tensor | None) -> None:
        self._dictionary, self._gram = dictionary, gram
        if gram is not None:
            shape = len(residual), len(dictionary)
            self._correlations = scratch(*shape, like=residual)
            torch.mm(residual, dictionary.t(), out=self._correlations)
            self._rows_of_gram = scratch(*shape, like=residual)

    def choose(self, residual: Tensor) -> Tensor:
        if self._gram is not None:
            return first_argmax(self._correlations)
        n = len(self._dictionary)
        step = max(BLOCK_FLOATS // max(len(residual), 1), 256)
        best = residual.new_full((len(residual),), -torch.inf)
        chosen = torch.zeros(len(residual), dtype=torch.long, device=residual.device)
        for start in range(0, n, step):
            scores = residual @ self._dictionary[start : start + step].t()
            index = first_argmax(scores)
            top = scores.gather(1, index[:, None])[:, 0]
            better = top > best
            best = torch.where(better, top, best)
            chosen = torch.where(better, index + start, chosen)
        return chosen

    def took(self, index: Tensor, value: Tensor) -> None:
        if self._gram is not None:
            torch.index_select(self._gram, 0, index, out=self._rows_of_gram)
            self._correlations.addcmul_(self._rows_of_gram, value[:, None], value=-1)


def _pursue(
    rows: Tensor, dictionary: Tensor, gram: Tensor | None, options: PursuitOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n_rows = len(rows)
    residual = rows.clone()
    values = rows.new_zeros(n_rows, options.n_steps)
    indices = torch.zeros(n_rows, options.n_steps, dtype=torch.long, device=rows.device)
    norms = rows.new_zeros(n_rows, options.n_steps + 1)
    norms[:, 0] = rows.norm(dim=1)
    limit = torch.clamp_min(norms[:, 0] * options.relative_tolerance, options.tolerance)
    alive = torch.ones(n_rows, dtype=torch.bool, device=rows.device)
    chooser = _Chooser(residual, dictionary, gram)
    for step in range(options.n_steps):
        index = chooser.choose(residual)
        atoms = dictionary.index_select(0, index)
        value = torch.where(alive, torch.linalg.vecdot(residual, atoms), 0.0).clamp_min_(0.0)
        residual.addcmul_(atoms, value[:, None], value=-1)
        taken = value > 0
        if options.stop_on_repeat and step:
            seen = (indices[:, :step] == index[:, None]) & (values[:, :step] > 0)
            alive = alive & ~seen.any(1)
        values[:, step], indices[:, step] = value, torch.where(taken, index, 0)
        norms[:, step + 1] = residual.norm(dim=1)
        alive = alive & taken & ((limit == 0) | (norms[:, step + 1] >= limit))
        if not alive.any():
            norms[:, step + 2 :] = norms[:, step + 1 : step + 2]
            break
        chooser.took(index, value)
    return values, residual, indices, norms


class _Pursuit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, dictionary: Tensor, options: PursuitOptions) -> Any:
        use_gram = uses_gram(rows, dictionary, options)
        gram = gram_matrix(dictionary) if use_gram else None
        stretch = max(STRETCH_FLOATS // len(dictionary), 32) if use_gram else 2048
        if rows.is_cuda:
            stretch = max(2**28 // len(dictionary), 256)
        parts = [
            _pursue(part, dictionary, gram, options) for part in rows.split(max(stretch, 1))
        ] or [_pursue(rows, dictionary, gram, options)]
        values, residual, indices, norms = (
            torch.cat(pieces) for pieces in zip(*parts, strict=True)
        )
        ctx.save_for_backward(dictionary, values, indices, residual)
        ctx.mark_non_differentiable(indices, norms)
        ctx.set_materialize_grads(False)
        return values, residual, indices, norms

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dictionary, values, indices, residual = ctx.saved_tensors
        of_values, of_residual = grads[0], grads[1]
        if of_residual is None:
            of_residual = torch.zeros_like(residual)
        of_dictionary = torch.zeros_like(dictionary) if ctx.needs_input_grad[1] else None
        pieces: list[Tensor] = []
        fitting = BACKWARD_FLOATS // (values.shape[1] * dictionary.shape[1])
        step = min(BACKWARD_ROWS, max(fitting, 32))
        for start in range(0, len(values), step):
            part = slice(start, start + step)
            pieces.append(
                _reversed(
                    dictionary, values[part], indices[part], residual[part],
                    None if of_values is None else of_values[part], of_residual[part],
                    of_dictionary,
                )
            )  # fmt: skip
        return (torch.cat(pieces) if pieces else of_residual), of_dictionary, None


def _reversed(
    dictionary: Tensor, values: Tensor, indices: Tensor, residual: Tensor,
    of_values: Tensor | None, of_residual: Tensor, of_dictionary: Tensor | None,
) -> Tensor:  # fmt: skip
    """Gradient of the rows; that of the dictionary is added where it is wanted."""
    n_rows, n_steps = values.shape
    residual, grad = residual.clone(), of_residual.clone()
    shares = scratch(n_steps, n_rows, dictionary.shape[1], like=residual)
    for step in reversed(range(n_steps)):
        value, atoms = values[:, step, None], dictionary.index_select(0, indices[:, step])
        torch.mul(grad, -value, out=shares[step])
        residual.addcmul_(atoms, value)
        pull = -torch.linalg.vecdot(grad, atoms)
        if of_values is not None:
            pull = pull + of_values[:, step]
        pull = torch.where(value[:, 0] > 0, pull, 0.0)[:, None]
        shares[step].addcmul_(residual, pull)
        grad.addcmul_(atoms, pull)
    if of_dictionary is not None:
        flat = indices.t().reshape(-1)
        order = flat.argsort(stable=True)
        offsets = flat.new_zeros(len(dictionary) + 1)
        offsets[1:] = torch.bincount(flat, minlength=len(dictionary)).cumsum(0)
        of_dictionary += F.embedding_bag(
            order, shares.reshape(-1, dictionary.shape[1]), offsets, mode="sum",
            include_last_offset=True,
        )  # fmt: skip
    return grad
