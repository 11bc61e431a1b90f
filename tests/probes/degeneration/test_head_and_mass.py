import math

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from fluoroscope.probes import wrap_model
from fluoroscope.probes.degeneration import DegenerationOptions
from fluoroscope.probes.degeneration.head import (
    head_jacobian,
    mass_ceiling,
    sensitivity_bound,
    uniform_mass,
)
from fluoroscope.probes.degeneration.mass import measure_mass, source_mass
from fluoroscope.probes.degeneration.weighted import (
    moved_by_position,
    output_projection,
    source_share,
)
from fluoroscope.probes.errors import OptionError
from tests.conftest import ids, n_hooks
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer


def head(seed: int, n: int = 6, d: int = 5, d_head: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(d_head,), (n, d), (d_head, d), (4, d)]
    return tuple(torch.randn(*shape, generator=generator).double() for shape in shapes)


def test_the_jacobian_in_closed_form_is_autograds(seed: int) -> None:
    query, inputs, key_weight, value_weight = head(seed)

    def output(x: torch.Tensor) -> torch.Tensor:
        probs = (x @ key_weight.T @ query / query.shape[0] ** 0.5).softmax(0)
        return probs @ (x @ value_weight.T)

    exact = torch.autograd.functional.jacobian(output, inputs)
    assert isinstance(exact, torch.Tensor)
    closed = head_jacobian(query, inputs, key_weight, value_weight)
    torch.testing.assert_close(closed, exact.transpose(0, 1), rtol=1e-12, atol=1e-13)


def test_no_position_is_more_sensitive_than_its_bound(seed: int) -> None:
    parts = head(seed)
    norms = torch.linalg.matrix_norm(head_jacobian(*parts), 2)
    bound = sensitivity_bound(*parts)
    assert (norms <= bound * (1 + 1e-12)).all()
    assert (norms / bound).max() > 0.2, "the bound is of the right size"


def test_mass_stays_below_the_ceiling_of_bounded_scores(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for n_other in (1, 10, 1000):
        scores = torch.rand(8 + n_other, generator=generator).double() * 2 - 1
        scores[:8] = 1.0
        scores[8:] = -1.0
        mass = scores.softmax(0)[:8].sum().item()
        assert mass == pytest.approx(mass_ceiling(8, n_other, 1.0), rel=1e-12)
    assert mass_ceiling(8, 10**9, 1.0) < 1e-6
    assert mass_ceiling(0, 5, 1.0) == 0
    assert uniform_mass(8, 24) == 0.25 == mass_ceiling(8, 24, 0.0)


def test_mass_sink_and_entropy_of_a_known_pattern() -> None:
    pattern = torch.tensor([0.5, 0.1, 0.1, 0.3])[None, None, None]
    mass, sink, entropy = source_mass(pattern, 3, 1)
    assert mass.item() == pytest.approx(0.7)
    assert sink.item() == pytest.approx(0.5)
    shares = (5 / 7, 1 / 7, 1 / 7)
    assert entropy.item() == pytest.approx(-sum(p * math.log(p) for p in shares), rel=1e-6)


def test_even_attention_has_the_even_mass_at_every_step() -> None:
    module = tiny_module("llama")
    for layer in module.model.layers:
        torch.nn.init.zeros_(layer.self_attn.k_proj.weight)
    model = wrap_model(module, byte_tokenizer(), name="even")
    options = DegenerationOptions(n_source=5, n_target=9)
    hooks = n_hooks(module)
    found = measure_mass(model, ids(2, 14), options)
    even = torch.tensor([5 / (5 + step) for step in options.steps]).double()
    torch.testing.assert_close(found.mass, even.expand_as(found.mass), rtol=1e-5, atol=1e-6)
    corrected = torch.tensor([4 / (4 + step) for step in options.steps]).double()
    torch.testing.assert_close(
        found.corrected, corrected.expand_as(found.mass), rtol=1e-5, atol=1e-6
    )
    assert n_hooks(module) == hooks


def test_steps_are_powers_of_two_and_the_last() -> None:
    options = DegenerationOptions(n_source=10, n_target=12)
    assert options.steps == (1, 2, 4, 8, 12)
    assert options.queries == (10, 11, 13, 17, 21)
    assert DegenerationOptions(n_target=8).steps == (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_source": 1}, "at least 2"),
        ({"n_sinks": 64}, "must leave some"),
        ({"n_probes": 0}, "n_probes"),
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        DegenerationOptions(**wrong)


def test_what_attention_moves_is_the_heads_answer_to_its_scores(seed: int) -> None:
    """|d (W_O o) / d score_j| = p_j |W_O (v_j - o)|, by autograd; grouped heads share values."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(1, 4, 2, 6, generator=generator).double()
    value = torch.randn(1, 2, 6, 3, generator=generator).double()
    output = torch.randn(4, 5, 3, generator=generator).double()
    moved = moved_by_position(scores.softmax(-1), value, output)
    for head, query in ((0, 0), (1, 1), (3, 0)):

        def into_stream(row: torch.Tensor, head: int = head) -> torch.Tensor:
            return output[head] @ (row.softmax(0) @ value[0, head // 2])

        jacobian = torch.autograd.functional.jacobian(into_stream, scores[0, head, query])
        assert isinstance(jacobian, torch.Tensor)
        torch.testing.assert_close(moved[0, head, query], jacobian.norm(dim=0), rtol=1e-9, atol=0)
    share = source_share(moved, 4, 1)
    assert share[0, 0, 0] == pytest.approx(
        float(moved[0, 0, 0, 1:4].sum() / moved[0, 0, 0, 1:].sum())
    )


def test_equal_values_move_nothing_whatever_attention_they_get() -> None:
    pattern = torch.tensor([[[[0.5, 0.25, 0.25]]]])
    value = torch.tensor([[[[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]]])
    assert moved_by_position(pattern, value, torch.eye(2)[None]).abs().max() < 1e-12


def test_the_output_projection_of_a_head_is_what_its_outputs_are_multiplied_with() -> None:
    """Square weights of both kinds: the transposed one would have the same shape."""
    n_heads, d_head, d_model = 3, 4, 12
    attention, heads = torch.nn.Module(), torch.randn(n_heads, d_head)
    for name, part in (("c_proj", Conv1D(d_model, 12)), ("o_proj", torch.nn.Linear(12, d_model))):
        attention.__dict__["_modules"] = {name: part}
        part.bias.data.zero_()
        output = output_projection(attention, n_heads, d_head)
        assert output is not None
        torch.testing.assert_close(
            torch.einsum("hmd,hd->m", output, heads), part(heads.flatten()[None])[0]
        )
    assert output_projection(attention, 2, d_head) is None


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weighted_mass_is_found_in_models_and_lies_between_zero_and_one(family: str) -> None:
    model = wrap_model(tiny_module(family), byte_tokenizer(), name=family)
    options, hooks = DegenerationOptions(n_source=6, n_target=4), n_hooks(model.module)
    found = measure_mass(model, ids(2, 10), options).weighted
    assert found.shape[-1] == len(options.steps)
    assert ((found > 0) & (found < 1)).all()
    assert n_hooks(model.module) == hooks
