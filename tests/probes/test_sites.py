"""Sites: every family's table, the identities that make a name mean one thing, and ports."""

import dataclasses

import pytest
import torch

from fluoroscope.probes import capture, intervene, wrap_model
from fluoroscope.probes.errors import SiteCheckError, UnknownSiteError, UnsupportedArchitectureError
from fluoroscope.probes.experts import ExpertsPort
from fluoroscope.probes.families import FAMILIES, Place
from fluoroscope.probes.selfcheck import check_sites
from fluoroscope.probes.sites import map_sites
from fluoroscope.probes.structure import build_sites, discover_family, family_of
from tests.conftest import ids, n_hooks
from tests.families import DENSE, MIXTURES, TINY_CONFIGS, UNLISTED, tiny_module


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_every_family_passes_its_self_check(family: str) -> None:
    module = tiny_module(family)
    assert family_of(module) is not None
    model = wrap_model(module, name=family)  # runs the check
    before = n_hooks(module)  # transformers leaves some of its own after output_hidden_states
    found = check_sites(model)
    assert len(found.checks) >= 2 * model.n_layers
    assert found.errors.max() <= found.tolerance
    assert n_hooks(module) == before


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_unembedding_the_last_state_gives_the_logits(family: str) -> None:
    model = wrap_model(tiny_module(family), name=family)
    with torch.no_grad(), capture(model, "layers.2.resid_post") as acts:
        logits = model(ids()).logits
    torch.testing.assert_close(
        model.unembed(acts["layers.2.resid_post"]), logits, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_reading_all_sites_leaves_logits_bit_exact(family: str) -> None:
    model = wrap_model(tiny_module(family), name=family)
    with torch.no_grad():
        plain = model(ids()).logits
        with capture(model, "*"):
            read = model(ids()).logits
    assert torch.equal(plain, read)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("attn.out", Place("mlp")),
        ("mlp.out", Place("mlp", "input")),
        ("resid_mid", Place("input_layernorm", "input")),
        ("mlp.out", Place("post_attention_layernorm")),
    ],
)
def test_a_wrong_mapping_is_caught(kind: str, place: Place) -> None:
    module = tiny_module("llama")
    right = FAMILIES["llama"]
    wrong = dataclasses.replace(right, places={**right.places, kind: place})
    model = wrap_model(module, check=False)
    model.sites = map_sites(module, wrong)
    with pytest.raises(SiteCheckError, match=r"layers\.0\.(resid_mid|mlp\.out)"):
        check_sites(model)


def test_an_off_by_one_layer_list_is_caught() -> None:
    module = tiny_module("llama")
    model = wrap_model(module, check=False)
    module.model.layers = torch.nn.ModuleList([*module.model.layers][::-1])
    shuffled = map_sites(module, FAMILIES["llama"])
    module.model.layers = torch.nn.ModuleList([*module.model.layers][::-1])
    model.sites = shuffled
    with pytest.raises(SiteCheckError, match="resid_pre"):
        check_sites(model)


def test_a_wrong_final_norm_is_caught() -> None:
    module = tiny_module("llama")
    model = wrap_model(module, check=False)
    wrong = dataclasses.replace(
        FAMILIES["llama"], final_norm="model.layers.2.post_attention_layernorm"
    )
    model.sites = map_sites(module, wrong)
    with pytest.raises(SiteCheckError, match="final_norm|logits"):
        check_sites(model)


@pytest.mark.parametrize("family", DENSE)
def test_structure_finds_what_the_table_says(family: str) -> None:
    module = tiny_module(family)
    table, found = family_of(module), discover_family(module)
    assert table is not None
    assert (found.layers, found.embed, found.final_norm) == (
        table.layers,
        table.embed,
        table.final_norm,
    )
    ours, theirs = map_sites(module, table), map_sites(module, found)
    model, other = wrap_model(module), wrap_model(module, check=False)
    other.sites = theirs
    with torch.no_grad(), capture(model, "*") as a, capture(other, "*") as b:
        model(ids())
    shared = set(ours.names) & set(theirs.names)
    assert {"layers.1.attn.out", "layers.1.mlp.out", "layers.1.resid_post"} <= shared
    for name in shared:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", UNLISTED)
def test_unlisted_architectures_get_checked_sites(family: str) -> None:
    module = tiny_module(family)
    assert family_of(module) is None
    model = wrap_model(module, name=family)
    assert {"resid_pre", "resid_post", "attn.out", "mlp.out"} <= set(model.sites.kinds)


def test_what_is_no_decoder_is_refused() -> None:
    from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

    assert AutoModelForCausalLM is not None
    config = T5Config(vocab_size=50, d_model=16, d_ff=16, num_layers=2, num_heads=2, d_kv=8)
    with pytest.raises(UnsupportedArchitectureError, match="t5.*not among the listed"):
        build_sites(T5ForConditionalGeneration(config))


def test_unknown_sites_are_named_with_near_matches(tiny_llama) -> None:
    with pytest.raises(UnknownSiteError, match=r"3 layers \(0-2\).*Did you mean: .*resid_post"):
        tiny_llama.sites.resolve("layers.7.resid_post")
    with pytest.raises(UnknownSiteError, match="Kinds of site here"):
        tiny_llama.sites["nonsense"]


def test_parallel_blocks_say_why_there_is_no_middle() -> None:
    model = wrap_model(tiny_module("gpt_neox"))
    with pytest.raises(UnknownSiteError, match="in parallel"):
        model.sites.resolve("layers.0.resid_mid")


def test_globs_select_in_forward_order(tiny_llama) -> None:
    found = [
        site.name for site in tiny_llama.sites.resolve(["layers.*.mlp.out", "layers.0.resid*"])
    ]
    assert found == [
        "layers.0.resid_pre",
        "layers.0.resid_mid",
        "layers.0.mlp.out",
        "layers.0.resid_post",
        "layers.1.mlp.out",
        "layers.2.mlp.out",
    ]


@pytest.mark.parametrize("family", MIXTURES)
def test_weighted_expert_outputs_sum_to_what_the_experts_return(family: str) -> None:
    module = tiny_module(family)
    model = wrap_model(module, name=family)
    site = model.sites["layers.1.experts.out"]
    seen = {}

    def keep(part, args, kwargs, output) -> None:
        seen["weights"] = [*args, *kwargs.values()][2]
        seen["sum"] = output

    assert isinstance(site.port, ExpertsPort)
    handle = site.port.module.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad(), capture(model, "layers.1.experts.out", "layers.1.router.logits") as acts:
        model(ids())
    handle.remove()
    each = acts["layers.1.experts.out"]
    weights = seen["weights"].sort(dim=-1, descending=True).values.reshape(*each.shape[:3], 1)
    total = seen["sum"].reshape(each.shape[0], each.shape[1], -1)
    torch.testing.assert_close((each * weights).sum(2), total, rtol=1e-4, atol=1e-6)
    logits = acts["layers.1.router.logits"]
    assert logits.shape == (2, 7, 4)
    assert not torch.allclose(logits.sum(-1), torch.ones(2, 7)), "these are probabilities"


@pytest.mark.parametrize("family", MIXTURES)
def test_naive_hooks_on_down_projections_see_no_routed_expert(family: str) -> None:
    """A canary: were there modules per expert again, experts.out could be read more cheaply."""
    module = tiny_module(family)
    inside = [name for name, _ in module.named_modules() if ".experts." in name]
    assert all("act_fn" in name for name in inside)


@pytest.mark.parametrize("family", MIXTURES)
def test_editing_router_and_experts_takes_effect_consistently(family: str) -> None:
    model = wrap_model(tiny_module(family), name=family)
    site, out = "layers.1.router.logits", "layers.1.experts.out"
    with torch.no_grad():
        plain = model(ids()).logits
        with intervene(model, {site: lambda v: v + 0.0, out: lambda v: v * 1.0}):
            same = model(ids()).logits
        with intervene(model, {site: lambda v: v.flip(-1)}):
            rerouted = model(ids()).logits
        with intervene(model, {out: torch.zeros_like}):
            silenced = model(ids()).logits
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(rerouted, plain)
    assert not torch.allclose(silenced, plain)
