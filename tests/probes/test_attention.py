"""Attention probabilities beside the model's own attention."""

import pytest
import torch

from fluoroscope.probes import capture, intervene, wrap_model
from fluoroscope.probes.attention import attention_probabilities, pattern_source
from tests.conftest import ids
from tests.families import TINY_CONFIGS, tiny_module

# transformers' eager Falcon adds ALiBi twice, so its patterns are not those of its default attention;
# that ours are is shown by the edit below that changes nothing.
WITH_PATTERN = [
    name for name in TINY_CONFIGS if not name.startswith("mamba") and name != "falcon alibi"
]


@pytest.mark.parametrize("family", WITH_PATTERN)
def test_recomputed_patterns_equal_eager_attention(family: str) -> None:
    """float32; eager and our float32 recomputation differ by rounding only: 2e-5 absolute."""
    module = tiny_module(family)
    model = wrap_model(module, name=family)
    sites = [site.name for site in model.sites if site.kind == "attn.pattern"]
    assert sites
    with torch.no_grad(), capture(model, *sites) as acts:
        model(ids())
    eager = tiny_module(family, _attn_implementation="eager")
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        own = eager(ids(), output_attentions=True).attentions
    own = [pattern for pattern in own if pattern is not None]
    for name, pattern in zip(sites, own, strict=True):
        torch.testing.assert_close(acts[name], pattern.float(), rtol=1e-4, atol=2e-5)


def test_the_source_of_patterns_is_told() -> None:
    module = tiny_module("llama")
    assert pattern_source(module) == "recomputed in float32 beside sdpa"
    module.set_attn_implementation("eager")
    assert pattern_source(module) == "eager attention's own probabilities"


def test_uniform_queries_give_uniform_causal_attention() -> None:
    query, key = torch.zeros(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    pattern = attention_probabilities(query, key, None, scale=None, causal=True)
    expected = torch.ones(5, 5).tril() / torch.arange(1, 6)[:, None]
    torch.testing.assert_close(pattern, expected.expand(1, 4, 5, 5))


def test_boolean_and_additive_masks_agree() -> None:
    query, key = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    additive = torch.zeros(1, 1, 4, 4).masked_fill(~mask, -torch.inf)
    by_bool = attention_probabilities(query, key, mask, scale=0.3, causal=True)
    by_sum = attention_probabilities(query, key, additive, scale=0.3, causal=True)
    torch.testing.assert_close(by_bool, by_sum)
    assert (by_bool.triu(1) == 0).all()


def test_padding_and_a_cache_are_respected(tiny_llama) -> None:
    name = "layers.1.attn.pattern"
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[0, 5:] = 0
    with torch.no_grad(), capture(tiny_llama, name) as acts:
        tiny_llama(ids(), attention_mask=mask)
    assert (acts[name][0, :, :, 5:] == 0).all()
    with torch.no_grad(), capture(tiny_llama, name) as acts:
        tiny_llama.generate(ids(1), max_new_tokens=3, do_sample=False)
    shapes = [tuple(chunk.shape) for chunk in acts.chunks(name)]
    assert shapes == [(1, 4, 7, 7), (1, 4, 1, 8), (1, 4, 1, 9)]


def test_an_edited_pattern_changes_the_output_as_the_formula_says(tiny_llama) -> None:
    name = "layers.1.attn.pattern"
    with torch.no_grad():
        plain = tiny_llama(ids()).logits
        with intervene(tiny_llama, {name: lambda p: p * 1.0}):
            same = tiny_llama(ids()).logits
        with intervene(tiny_llama, {name: lambda p: p.roll(1, -1)}):
            other = tiny_llama(ids()).logits
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other, plain, atol=1e-3)


FALCON = [name for name in TINY_CONFIGS if name.startswith("falcon")]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FALCON)
def test_attention_called_inside_the_module_is_seen_and_edited(family: str, attention: str) -> None:
    module = tiny_module(family)
    module.set_attn_implementation(attention)
    model, name = wrap_model(module), "layers.1.attn.pattern"
    with torch.no_grad():
        plain = model(ids()).logits
        with capture(model, name) as acts, intervene(model, {name: lambda p: p * 1.0}):
            same = model(ids()).logits
        with intervene(model, {name: lambda p: p.roll(1, -1)}):
            other = model(ids()).logits
        after = model(ids()).logits
    assert acts[name].shape == (2, 4, 7, 7)
    torch.testing.assert_close(acts[name].sum(-1), torch.ones(2, 4, 7))
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other, plain, atol=1e-4)
    assert torch.equal(after, plain)
    assert not [part for part in module.modules() if "forward" in vars(part)]


def test_inline_attention_is_let_go_after_an_early_stop_and_an_error() -> None:
    model, name = wrap_model(tiny_module("falcon")), "layers.0.attn.pattern"
    with torch.no_grad(), capture(model, name, stop_early=True) as acts:
        assert model(ids()) is None
    assert acts[name].shape == (2, 4, 7, 7)

    def fail(pattern: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), torch.no_grad(), intervene(model, {name: fail}):
        model(ids())
    assert torch.overrides._get_current_function_mode_stack() == []
    assert not [part for part in model.module.modules() if "forward" in vars(part)]


def test_inline_attention_of_padded_texts_and_with_a_cache() -> None:
    model, name = wrap_model(tiny_module("falcon new")), "layers.1.attn.pattern"
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[0, 5:] = 0
    with torch.no_grad(), capture(model, name) as acts:
        model(ids(), attention_mask=mask)
    assert (acts[name][0, :, :, 5:] == 0).all()
    with torch.no_grad(), capture(model, name) as acts:
        model.generate(ids(1), max_new_tokens=3, do_sample=False)
    assert [tuple(chunk.shape) for chunk in acts.chunks(name)] == [
        (1, 4, 7, 7),
        (1, 4, 1, 8),
        (1, 4, 1, 9),
    ]
