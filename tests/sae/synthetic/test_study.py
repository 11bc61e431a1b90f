from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae import make_sae
from fluoroscope.sae.synthetic.recipes import recipes
from fluoroscope.sae.synthetic.study import (
    Cell,
    SyntheticStudy,
    absorption_study,
    as_result,
    score,
    tree_study,
)
from fluoroscope.sae.synthetic.tree import PARENT, TRUE_L0, Tree, TreeOptions


def quick(**more: object) -> SyntheticStudy:
    return tree_study(architectures=["relu"], rhos=(0.0,), n_steps=100, **more)  # type: ignore[arg-type]


def test_the_truth_itself_scores_perfectly_in_any_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tree = Tree(TreeOptions(), generator=generator)
    sae = make_sae("relu", d_in=20, d_sae=20, apply_b_dec_to_input=False)
    order = torch.randperm(20, generator=generator)
    with torch.no_grad():
        sae.W_dec.copy_(tree.atoms[order])
        sae.W_enc.copy_(tree.atoms[order].T)
        sae.b_enc.fill_(-1e-3)
    found = score(sae, tree, generator)
    assert found["matched_cosine"] == pytest.approx(1, abs=1e-6)
    assert found["absorption"] == pytest.approx(0, abs=1e-6)
    assert found["flat_mse"] + found["hierarchical_mse"] < 1e-10
    assert found["fvu"] < 1e-4
    assert found["f1"] == pytest.approx(1, abs=1e-3)
    # 20,000 rows: 0.02 is six standard errors of the mean.
    assert found["l0"] == pytest.approx(TRUE_L0, abs=0.02)


def test_children_that_contain_their_parent_are_absorbed() -> None:
    generator = torch.Generator().manual_seed(0)
    tree = Tree(TreeOptions(), generator=generator)
    atoms = tree.atoms.clone()
    children = np.flatnonzero(PARENT >= 0)
    atoms[children] += tree.atoms[PARENT[children]]
    sae = make_sae("relu", d_in=20, d_sae=20)
    with torch.no_grad():
        sae.W_dec.copy_(atoms)
    assert score(sae, tree, generator)["absorption"] == pytest.approx(2**-0.5, abs=1e-5)


def test_a_stopped_study_goes_on_where_it_was() -> None:
    seen: list[list[Cell]] = []

    def stop(cells: list[Cell]) -> None:
        seen.append(list(cells))
        if len(cells) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(seeds=(0, 1, 2), on_cell=stop)
    rest: list[int] = []
    again = quick(seeds=(0, 1, 2), done=seen[-1], on_cell=lambda cells: rest.append(len(cells)))
    assert rest == [3]
    whole = quick(seeds=(0, 1, 2))
    for field in ("matched_cosine", "l0", "absorption"):
        np.testing.assert_array_equal(getattr(again, field), getattr(whole, field))


def test_a_study_survives_its_file(tmp_path: Path) -> None:
    study = quick(seeds=(0,))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        study.save(file.create_group("r"))
        again = SyntheticStudy.load(file["r"])
    assert again.cells == study.cells
    assert as_result(again.cells, "tree").protocol == "tree"
    assert replace(again.cells[0], seed=5).key != again.cells[0].key


def test_unknown_architectures_and_no_seeds_are_refused() -> None:
    with pytest.raises(OptionError, match="Unknown architecture 'nope'; known: mp"):
        tree_study(architectures=["nope"])
    with pytest.raises(OptionError, match="at least 100 steps"):
        tree_study(n_steps=10)


@pytest.mark.slow
def test_l1_absorbs_parents_and_prefixes_mend_it() -> None:
    study = tree_study(
        architectures=["relu", "matryoshka-relu"], rhos=(0.0,), seeds=(0,), n_steps=5000
    )
    assert study.absorption[0] > 0.3
    assert study.absorption[1] < 0.1


@pytest.mark.slow
def test_matching_pursuit_finds_every_feature() -> None:
    study = tree_study(architectures=["mp"], rhos=(0.0,), seeds=(0,), n_steps=3000)
    assert study.matched_cosine[0] > 0.995
    assert abs(study.absorption[0]) < 0.02
    assert study.l0[0] == pytest.approx(TRUE_L0, abs=0.05)


def test_a_diverged_training_is_a_cell_of_nan() -> None:
    generator = torch.Generator().manual_seed(0)
    sae = make_sae("relu", d_in=20, d_sae=20)
    with torch.no_grad():
        sae.W_dec[0, 0] = torch.nan
    assert np.isnan(
        list(score(sae, Tree(TreeOptions(), generator=generator), generator).values())
    ).all()


def test_signs_do_not_count_where_codes_are_signed() -> None:
    generator = torch.Generator().manual_seed(0)
    tree = Tree(TreeOptions(), generator=generator)
    sae = make_sae("omp", d_in=20, d_sae=20, k=2, apply_b_dec_to_input=False)
    with torch.no_grad():
        sae.W_dec.copy_(-tree.atoms)
    found = score(sae, tree, generator)
    assert found["matched_cosine"] == pytest.approx(1, abs=1e-5)
    assert found["absorption"] == pytest.approx(0, abs=1e-5)


def test_table_1_varies_the_children() -> None:
    study = absorption_study(
        architectures=["relu"], child_means=(0.1, 1.0), seeds=(0,), n_steps=100
    )
    assert study.child_mean.tolist() == [0.1, 1.0]
    assert study.protocol == "absorption"
    assert set(recipes()) >= {"mp", "relu", "batchtopk", "matryoshka"}
