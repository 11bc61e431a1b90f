import dataclasses

import numpy as np
import pytest
import torch

from fluoroscope.probes import Model, wrap_model
from fluoroscope.probes.degeneration import (
    AttentionDegeneration,
    DegenerationOptions,
    attention_degeneration,
)
from fluoroscope.probes.degeneration.mass import measure_mass
from fluoroscope.probes.degeneration.sensitivity import (
    finite_difference,
    jacobian_norms,
    swapped_source_divergence,
)
from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.readings import Texts
from tests.conftest import ids, n_hooks
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

SMALL = DegenerationOptions(n_source=4, n_target=4, n_probes=400)


@pytest.fixture
def exact_model() -> Model:
    return wrap_model(tiny_module("llama").double(), byte_tokenizer(), name="tiny llama")


def whole_jacobian(model: Model, row: torch.Tensor, query: int) -> torch.Tensor:
    """d logits at one position / d embeddings, by autograd through `inputs_embeds`."""
    embedded = model.module.get_input_embeddings()(row)

    def logits(x: torch.Tensor) -> torch.Tensor:
        return model.module(inputs_embeds=x[None]).logits[0, query]

    found = torch.autograd.functional.jacobian(logits, embedded)
    assert isinstance(found, torch.Tensor)
    return found


def test_hutchinson_finds_the_jacobian_norm(exact_model: Model) -> None:
    """400 directions: the relative error is about 1/20; a third would be six standard errors."""
    row = ids(1, 8)[0]
    hooks = n_hooks(exact_model.module)
    found = jacobian_norms(exact_model, row, SMALL)
    for number, query in enumerate(SMALL.queries):
        squares = whole_jacobian(exact_model, row, query).square().sum((0, 2))
        exact = torch.stack([
            squares[1:4].mean(),
            squares[:1].mean(),
            squares[4 : query + 1].mean(),
        ])
        torch.testing.assert_close(found[number], exact.detach(), rtol=0.33, atol=1e-12)
    assert all(p.requires_grad for p in exact_model.module.parameters())
    assert n_hooks(exact_model.module) == hooks


def test_a_push_moves_the_logits_as_the_jacobian_says(exact_model: Model) -> None:
    row = ids(1, 8)[0]
    jacobian = whole_jacobian(exact_model, row, 6)[:, 2]
    direction = torch.randn(32, generator=torch.Generator().manual_seed(3))
    direction = direction.double() / direction.double().norm()
    along = (jacobian @ direction).norm().item()
    found = finite_difference(exact_model, row, position=2, query=6, relative=1e-3, seed=3)
    assert found == pytest.approx(along, rel=3e-3), "norms compute in float32 inside"


def test_a_query_before_the_position_is_refused(exact_model: Model) -> None:
    with pytest.raises(OptionError, match="at or after position 5"):
        finite_difference(exact_model, ids(1, 8)[0], position=5, query=4)


def test_the_same_source_diverges_by_nothing_and_another_by_the_exact_kl(
    exact_model: Model,
) -> None:
    rows = ids(3, 9)
    same = swapped_source_divergence(exact_model, rows, rows[:, :4], 4)
    torch.testing.assert_close(same, torch.zeros(3, 5).double(), rtol=0, atol=1e-12)
    others = rows[:, :4].roll(1, 0)
    found = swapped_source_divergence(exact_model, rows, others, 4)
    with torch.no_grad():
        p = exact_model(rows).logits[:, 4:].softmax(-1)
        q = exact_model(torch.cat([others, rows[:, 4:]], 1)).logits[:, 4:].softmax(-1)
    exact = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(-1)
    torch.testing.assert_close(found, exact.double(), rtol=1e-4, atol=1e-6)
    assert (found > 0).all()


def texts(n: int, length: int) -> Texts:
    rows = ids(n, length).numpy()
    return Texts(tuple(rows), tuple(f"text {i}" for i in range(n)))


def test_the_result_has_every_curve_and_survives_a_file(tiny_llama: Model, tmp_path) -> None:
    import h5py

    options = DegenerationOptions(n_source=6, n_target=10, n_probes=1)
    found = attention_degeneration(tiny_llama, texts(5, 20), options)
    assert found.n_texts == 5
    assert found.steps.tolist() == [1, 2, 4, 8, 10]
    rows = ids(5, 20)[:, :16]
    exact = [
        swapped_source_divergence(tiny_llama, rows[k : k + 1], rows[(k + 1) % 5][None, :6], 6)[0]
        for k in range(5)
    ]
    after = torch.stack(exact).mean(0)[[0, 1, 3, 7, 9]]
    np.testing.assert_allclose(found.divergence, after, rtol=1e-5)
    masses = [measure_mass(tiny_llama, row[None], options) for row in rows]
    heads = torch.cat([one.corrected for one in masses]).mean(0) / torch.tensor(
        found.corrected_uniform
    )
    np.testing.assert_allclose(found.head_ratio, heads, rtol=1e-4)
    np.testing.assert_allclose(found.corrected_uniform, 5 / (5 + np.array([1, 2, 4, 8, 10])))
    assert found.head_ratio.shape == (3, 4, 5)
    assert found.jacobian.shape == (3, 5)
    assert (found.mass_low <= found.mass).all()
    assert (found.mass <= found.mass_high).all()
    assert ((found.mass >= 0) & (found.mass <= 1)).all()
    with h5py.File(tmp_path / "r.h5", "w") as file:
        found.save(file.create_group("r"))
        back = AttentionDegeneration.load(file["r"])
    for field in dataclasses.fields(found):
        np.testing.assert_equal(getattr(back, field.name), getattr(found, field.name))


def test_windows_of_a_document_are_no_other_source_and_one_draw(
    tiny_llama: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def spied(model, rows, others, n_source):
        asked.append((rows[0, :n_source].tolist(), others[0].tolist()))
        return swapped_source_divergence(model, rows, others, n_source)

    monkeypatch.setattr("fluoroscope.probes.degeneration.result.swapped_source_divergence", spied)
    options = DegenerationOptions(n_source=6, n_target=4, n_probes=1)
    rows = texts(5, 10).ids
    found = attention_degeneration(tiny_llama, Texts(rows, ("a", "a#1", "a#2", "b", "c")), options)
    sources = [row[:6].tolist() for row in rows]
    assert [(sources.index(own), sources.index(other)) for own, other in asked] == [
        (0, 3), (1, 3), (2, 3), (3, 4), (4, 0),
    ]  # fmt: skip
    assert (found.n_texts, found.n_documents) == (5, 3)
    alone = attention_degeneration(tiny_llama, Texts(rows, tuple("abcde")), options)
    np.testing.assert_allclose(found.mass, alone.mass)
    assert (found.mass_low != alone.mass_low).any()
    whole = attention_degeneration(
        tiny_llama, Texts(rows, tuple(f"a#{n}" for n in range(5))), options
    )
    assert np.isnan(whole.mass_low).all(), "one document has no interval"
    assert np.isfinite(whole.divergence).all()


def test_too_few_long_texts_are_refused_with_what_is_needed(tiny_llama: Model) -> None:
    with pytest.raises(OptionError, match=r"at least 4 texts of 192 tokens.*got 0 of 5"):
        attention_degeneration(tiny_llama, texts(5, 20))
