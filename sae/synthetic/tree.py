"""The hierarchical benchmark: parents, children, and what a dictionary must tell apart.

Twenty true atoms in twenty dimensions. Three parents have three children each; eight parents have
none. A sample holds exactly one parent, and of a parent with children at most one child. Atoms of
one level may correlate (`rho`), atoms of different levels are orthogonal: conditional
orthogonality. A dictionary that spends its sparsity on whole samples learns child atoms that
contain their parent.

The number of active atoms is 1.36 on average, so a dictionary that found the truth needs no more.

References: "From Flat to Hierarchical", arXiv 2506.03093, and its code: tree, probabilities, values
    and the construction of correlated atoms are its own. Table 1 names the variance of parents as
    1/16 and the spread of children as 1/40; we read the first as a variance (std 0.25, as in the
    benchmark) and the second as a standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import root_scalar
from torch import Tensor

from ...probes.errors import OptionError

N_FEATURES = 20
FAMILIES = ((0, (1, 2, 3)), (4, (5, 6, 7)), (8, (9, 10, 11)))
"""Parents with children."""
CHILDLESS = tuple(range(12, 20))
P_PARENT, P_CHILDLESS, P_CHILD = 0.2, 0.05, 0.2
"""Chances of each parent with children, each parent without, and each child given its parent."""
TRUE_L0 = 1.36

PARENT = np.full(N_FEATURES, -1)
for _parent, _children in FAMILIES:
    PARENT[list(_children)] = _parent
LEVEL = (PARENT >= 0).astype(int)
"""0 for parents, 1 for children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOptions:
    """The benchmark's data."""

    rho: float = 0.0
    """Cosine of any two parents, and of any two children of one parent."""
    parent_mean: float = 1.5
    parent_std: float = 0.25
    child_mean: float = 1.5
    child_std: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what no geometry allows."""
        if not 0 <= self.rho < 1:
            raise OptionError(f"rho must be from 0 to below 1, got {self.rho}.")
        if self.parent_std < 0 or self.child_std < 0:
            raise OptionError("Standard deviations must not be negative.")


def table_1(child_mean: float) -> TreeOptions:
    """Data of the paper's Table 1: orthogonal atoms, weak children (mean 0.1, 0.5 or 1)."""
    return TreeOptions(parent_mean=1.0, parent_std=0.25, child_mean=child_mean, child_std=1 / 40)


class Tree:
    """One drawing of the benchmark: its atoms, and samples from it.

    Args:
        options: Correlation and values.
        generator: Source of the atoms' orientation.
    """

    def __init__(self, options: TreeOptions, *, generator: torch.Generator) -> None:
        self.options = options
        self.atoms = correlated_atoms(options.rho, generator)

    def sample(
        self, n_rows: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "rows d_model"], Float[Tensor, "rows features"]]:
        """Rows and the true coefficients behind them."""
        given = self.options
        chances = torch.zeros(N_FEATURES)
        chances[[parent for parent, _ in FAMILIES]] = P_PARENT
        chances[list(CHILDLESS)] = P_CHILDLESS
        parent = torch.multinomial(chances, n_rows, replacement=True, generator=generator)
        codes = torch.zeros(n_rows, N_FEATURES)
        value = given.parent_mean + given.parent_std * torch.randn(n_rows, generator=generator)
        codes[torch.arange(n_rows), parent] = value
        draw = torch.rand(n_rows, generator=generator)
        value = given.child_mean + given.child_std * torch.randn(n_rows, generator=generator)
        which = (draw / P_CHILD).long()  # 0, 1, 2: that child; above: none
        rows = torch.nonzero(torch.isin(parent, torch.tensor([0, 4, 8])) & (which < 3))[:, 0]
        codes[rows, parent[rows] + 1 + which[rows]] = value[rows]
        return codes @ self.atoms, codes


def epsilon_of(rho: float, size: int) -> float:
    """How much of the others each atom of a group takes so that any two have cosine `rho`.

    Solves `rho = (2ab + (n - 2) b^2) / (a^2 + (n - 1) b^2)` with `a = 1 - eps`, `b = eps / (n -
    1)`.

    Args:
        rho: Cosine wanted, from 0 to below 1.
        size: Atoms in the group.
    """

    def excess(epsilon: float) -> float:
        own, other = 1 - epsilon, epsilon / (size - 1)
        above = 2 * own * other + (size - 2) * other**2
        return above / (own**2 + (size - 1) * other**2) - rho

    if rho == 0:
        return 0.0
    return float(root_scalar(excess, bracket=(0.0, (size - 1) / size)).root)


def correlated_atoms(rho: float, generator: torch.Generator) -> Float[Tensor, "features d_model"]:
    """Unit atoms: groups of equal pairwise cosine, orthogonal to each other.

    The groups are all parents, and the children of each parent.
    """
    basis = torch.linalg.qr(torch.randn(N_FEATURES, N_FEATURES, generator=generator)).Q.T
    parents = [parent for parent, _ in FAMILIES] + list(CHILDLESS)
    atoms = basis.clone()
    for group in (parents, *(list(children) for _, children in FAMILIES)):
        epsilon = epsilon_of(rho, len(group))
        own, total = basis[group], basis[group].sum(0)
        mixed = (1 - epsilon) * own + epsilon / (len(group) - 1) * (total - own)
        atoms[group] = mixed / mixed.norm(dim=1, keepdim=True)
    return atoms
