import numpy as np
import pytest
import torch

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae.synthetic.tree import (
    FAMILIES,
    LEVEL,
    PARENT,
    TRUE_L0,
    Tree,
    TreeOptions,
    correlated_atoms,
    epsilon_of,
    table_1,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("size", "published"),
    [
        (3, [0.0895, 0.163, 0.226, 0.282, 0.3335, 0.3825, 0.431, 0.482]),
        (11, [0.3, 0.44, 0.529, 0.594, 0.6467, 0.692, 0.733, 0.7739]),
    ],
)
def test_epsilon_agrees_with_the_papers_code(size: int, published: list[float]) -> None:
    found = [epsilon_of(rho / 10, size) for rho in range(1, 9)]
    # Their table is rounded to three or four digits.
    np.testing.assert_allclose(found, published, atol=2e-3)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.8])
def test_atoms_have_the_cosines_asked_for(rho: float) -> None:
    atoms = correlated_atoms(rho, generator()).double()
    gram = (atoms @ atoms.T).numpy()
    expected = np.eye(20)
    parents = np.flatnonzero(LEVEL == 0)
    for group in (parents, *(np.array(children) for _, children in FAMILIES)):
        expected[np.ix_(group, group)] = rho
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(gram, expected, atol=1e-5)


def test_samples_hold_one_parent_and_at_most_its_own_child(seed: int) -> None:
    tree = Tree(TreeOptions(), generator=generator(seed))
    x, codes = tree.sample(40_000, generator(seed + 1))
    active = codes != 0
    assert torch.equal(active[:, torch.from_numpy(LEVEL == 0)].sum(1), torch.ones(40_000).long())
    rows, children = torch.nonzero(active & torch.from_numpy(LEVEL == 1), as_tuple=True)
    assert bool(active[rows, torch.from_numpy(PARENT)[children]].all())
    assert len(rows.unique()) == len(rows)
    # Share of a 0/1 variable over 40,000 rows: 0.012 is five standard errors, odds 6e-7.
    assert float(active.sum(1).double().mean()) == pytest.approx(TRUE_L0, abs=0.012)
    assert float(active[:, 0].double().mean()) == pytest.approx(0.2, abs=0.012)
    assert float(active[:, 5].double().mean()) == pytest.approx(0.04, abs=0.006)
    assert float(codes[active].mean()) == pytest.approx(1.5, abs=0.01)
    assert torch.allclose(x, codes @ tree.atoms)


def test_table_1_is_the_papers() -> None:
    given = table_1(0.5)
    assert (given.rho, given.parent_mean, given.child_mean) == (0.0, 1.0, 0.5)
    assert given.parent_std**2 == 1 / 16
    assert given.child_std == 1 / 40


def test_impossible_correlation_is_refused() -> None:
    with pytest.raises(OptionError, match="rho must be from 0 to below 1, got 1"):
        TreeOptions(rho=1.0)
