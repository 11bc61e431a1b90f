"""Capture: what is read equals what plain hooks read, and nothing is left behind."""

import pytest
import torch
from transformers import DynamicCache

from fluoroscope.probes import Mask, Model, Positions, capture, intervene, wrap_model
from fluoroscope.probes.errors import OptionError, SiteNotFiredError, UnknownSiteError
from fluoroscope.probes.forwards import watch_forwards
from fluoroscope.probes.reducers import Moments
from tests.conftest import ids, n_hooks
from tests.families import tiny_module


def test_captured_states_equal_the_models_own_bit_for_bit(tiny_llama) -> None:
    with torch.no_grad(), capture(tiny_llama, "layers.*.resid_post") as acts:
        own = tiny_llama(ids(), output_hidden_states=True).hidden_states
    for layer in range(2):
        assert torch.equal(acts[f"layers.{layer}.resid_post"], own[layer + 1])


def test_generation_is_captured_pass_by_pass(tiny_llama) -> None:
    with capture(tiny_llama, "layers.1.mlp.out") as acts:
        text = tiny_llama.generate(ids(1), max_new_tokens=5, do_sample=False, eos_token_id=None)
    shapes = [tuple(chunk.shape) for chunk in acts.chunks("layers.1.mlp.out")]
    assert shapes == [(1, 7, 32), *[(1, 1, 32)] * 4]
    with torch.no_grad(), capture(tiny_llama, "layers.1.mlp.out") as whole:
        tiny_llama(text[:, :-1])
    torch.testing.assert_close(
        acts["layers.1.mlp.out"], whole["layers.1.mlp.out"], rtol=1e-4, atol=1e-5
    )


def test_last_is_never_padding(tiny_llama) -> None:
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[0, 4:] = 0
    with torch.no_grad(), capture(tiny_llama, "embed") as every:
        tiny_llama(ids(), attention_mask=mask)
    with torch.no_grad(), capture(tiny_llama, "embed", rows="last") as last:
        tiny_llama(ids(), attention_mask=mask)
    expected = torch.stack([every["embed"][0, 3], every["embed"][1, 6]])[:, None]
    assert torch.equal(last["embed"], expected)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (Positions([0, 3]), lambda v: v[:, [0, 3]]),
        (Positions([-1, -2]), lambda v: v[:, [6, 5]]),
        (Mask(torch.arange(14).reshape(2, 7) % 3 == 0), lambda v: v.reshape(14, -1)[::3]),
    ],
)
def test_row_selections(tiny_llama, rows, expected) -> None:
    with torch.no_grad(), capture(tiny_llama, "layers.0.resid_mid") as every:
        tiny_llama(ids())
    with torch.no_grad(), capture(tiny_llama, "layers.0.resid_mid", rows=rows) as some:
        tiny_llama(ids())
    assert torch.equal(some["layers.0.resid_mid"], expected(every["layers.0.resid_mid"]))


def test_positions_are_absolute_while_a_cache_grows(tiny_llama) -> None:
    with capture(tiny_llama, "embed", rows=Positions([0, 8])) as acts:
        tiny_llama.generate(ids(1), max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert [chunk.shape[1] for chunk in acts.chunks("embed")] == [1, 0, 1, 0]


def test_captured_tensors_own_their_memory(tiny_llama) -> None:
    with torch.no_grad(), capture(tiny_llama, "*", rows="last") as acts:
        tiny_llama(ids())
    for name in acts:
        value = acts[name]
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size(), name


def test_in_place_changes_later_do_not_reach_what_was_captured() -> None:
    """Falcon adds attention to the MLP's output in place."""
    model = wrap_model(tiny_module("falcon"))
    site = "layers.1.mlp.out"
    with torch.no_grad(), capture(model, site, "layers.1.attn.out", "layers.1.resid_*") as acts:
        model(ids())
    added = acts["layers.1.resid_post"] - acts["layers.1.resid_pre"] - acts["layers.1.attn.out"]
    torch.testing.assert_close(acts[site], added, rtol=1e-4, atol=1e-5)


def test_dtype_and_device_are_as_asked(tiny_llama) -> None:
    with torch.no_grad(), capture(tiny_llama, "embed", dtype=torch.float16, device="cpu") as acts:
        tiny_llama(ids())
    assert acts["embed"].dtype == torch.float16


@pytest.mark.parametrize("failing", ["in the block", "in a hook"])
def test_hooks_go_on_every_way_out(tiny_llama, failing: str) -> None:
    before = n_hooks(tiny_llama.module)

    def sink(name: str, rows: torch.Tensor) -> None:
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        capture(tiny_llama, "*", sink=sink if failing == "in a hook" else None),
    ):
        tiny_llama(ids())
        raise ZeroDivisionError
    assert n_hooks(tiny_llama.module) == before


def test_a_wrong_name_hooks_nothing(tiny_llama) -> None:
    before = n_hooks(tiny_llama.module)
    with pytest.raises(UnknownSiteError), capture(tiny_llama, "embed", "layers.9.mlp.out"):
        pass
    assert n_hooks(tiny_llama.module) == before


def test_gradients_on_request_and_not_otherwise(tiny_llama) -> None:
    with capture(tiny_llama, "layers.1.resid_post", grad=True) as acts:
        tiny_llama(ids()).logits.sum().backward()
    gradient = acts["layers.1.resid_post"].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    with capture(tiny_llama, "layers.1.resid_post") as acts:
        tiny_llama(ids())
    assert not acts["layers.1.resid_post"].requires_grad


def test_stopping_early_skips_what_lies_above(tiny_llama) -> None:
    ran = []
    handle = tiny_llama.unembedding.register_forward_hook(lambda *a: ran.append(1))
    with torch.no_grad(), capture(tiny_llama, "layers.1.resid_post", stop_early=True) as acts:
        assert tiny_llama(ids()) is None
    handle.remove()
    assert not ran
    with torch.no_grad(), capture(tiny_llama, "layers.1.resid_post") as full:
        tiny_llama(ids())
    assert torch.equal(acts["layers.1.resid_post"], full["layers.1.resid_post"])


def test_an_inner_capture_does_not_starve_an_outer_one(tiny_llama) -> None:
    with torch.no_grad(), capture(tiny_llama, "logits") as outer:
        with capture(tiny_llama, "embed", stop_early=True):
            assert tiny_llama(ids()) is not None
    assert outer["logits"].shape == (2, 7, 260)


def test_reducers_see_every_row_once(tiny_llama) -> None:
    with torch.no_grad(), capture(tiny_llama, "embed") as acts:
        tiny_llama(ids())
        tiny_llama(ids(seed=1))
    with torch.no_grad(), capture(tiny_llama, "embed", reduce=Moments) as reduced:
        tiny_llama(ids())
        tiny_llama(ids(seed=1))
    moments = reduced.reducer("embed")
    assert isinstance(moments, Moments)
    rows = acts["embed"].reshape(-1, 32).double()
    assert moments.n_rows == 28
    torch.testing.assert_close(moments.mean, rows.mean(0))


def test_errors_say_what_to_do(tiny_llama) -> None:
    with capture(tiny_llama, "embed") as acts:
        pass
    with pytest.raises(SiteNotFiredError, match="no pass ran"):
        _ = acts["embed"]
    with pytest.raises(UnknownSiteError, match="this capture holds embed"):
        _ = acts["logits"]
    with pytest.raises(OptionError, match="reduce="):
        acts.reducer("embed")
    with torch.no_grad(), capture(tiny_llama, "layers.0.attn.pattern") as acts:
        tiny_llama(ids(2, 7))
        tiny_llama(ids(2, 5))
    with pytest.raises(OptionError, match=r"\.chunks\('layers.0.attn.pattern'\)"):
        _ = acts["layers.0.attn.pattern"]
    with pytest.raises(OptionError, match=r"shape \(2, 7\), got \(1, 3\)"):
        with capture(tiny_llama, "embed", rows=Mask(torch.ones(1, 3, dtype=torch.bool))):
            tiny_llama(ids())


def test_a_site_that_is_not_reached_is_an_error(tiny_llama) -> None:
    layer = tiny_llama.module.model.layers[1]
    bypass = layer.mlp.register_forward_hook(lambda *a: None)
    bypass.remove()
    layer.mlp.forward, own = (lambda hidden: hidden), layer.mlp.forward
    try:
        with pytest.raises(SiteNotFiredError, match=r"layers\.1\.mlp\.hidden"):
            with torch.no_grad(), capture(tiny_llama, "layers.*.mlp.hidden"):
                tiny_llama(ids())
    finally:
        layer.mlp.forward = own


def test_interventions_run_before_captures_whatever_the_nesting(tiny_llama) -> None:
    site = "layers.1.mlp.out"
    with torch.no_grad(), capture(tiny_llama, site) as acts:
        with intervene(tiny_llama, {site: torch.zeros_like}):
            tiny_llama(ids())
    assert (acts[site] == 0).all()


def test_gradients_have_the_rows_of_the_values_and_survive_in_place_sums() -> None:
    """Falcon adds attention to the MLP's output in place; gradients as from plain autograd."""
    model, site = wrap_model(tiny_module("falcon")), "layers.1.mlp.out"
    with capture(model, site) as plain:
        logits = model(ids()).logits
    for rows in ("all", Positions([1, -1])):
        with capture(model, site, "layers.1.resid_post", grad=True, rows=rows) as acts:
            kept = model(ids()).logits
            kept.square().sum().backward()
        assert torch.equal(kept, logits)
        index = slice(None) if rows == "all" else [1, 6]
        assert torch.equal(acts[site], plain[site][:, index])
        # Both are summands of one stream, so their gradients are one and the same.
        torch.testing.assert_close(acts.grad(site), acts.grad("layers.1.resid_post"))
        assert acts.grad(site).shape == acts[site].shape
    with torch.no_grad(), capture(model, site, grad=True) as acts:
        model(ids())
    with pytest.raises(OptionError, match="No gradient reached layers.1.mlp.out"):
        acts.grad(site)


def test_positions_and_last_leave_padding_on_the_left_out(tiny_llama) -> None:
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[0, :3] = 0
    with capture(tiny_llama, "embed") as every:
        tiny_llama.generate(
            ids(), attention_mask=mask, max_new_tokens=3, do_sample=False, eos_token_id=None
        )
    with capture(tiny_llama, "embed", rows=Positions([0])) as first:
        tiny_llama.generate(
            ids(), attention_mask=mask, max_new_tokens=3, do_sample=False, eos_token_id=None
        )
    expected = torch.stack([every["embed"][0, 3], every["embed"][1, 0]])[:, None]
    assert torch.equal(first["embed"], expected)
    with pytest.raises(OptionError, match=r"rows \[0\] are all padding"):
        with torch.no_grad(), capture(tiny_llama, "embed", rows="last"):
            tiny_llama(ids(), attention_mask=torch.tensor([[0] * 7, [1] * 7]))


def test_padding_never_enters_a_statistic(tiny_llama) -> None:
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[0, 4:] = 0
    with torch.no_grad(), capture(tiny_llama, "embed") as acts:
        tiny_llama(ids(), attention_mask=mask)
    with torch.no_grad(), capture(tiny_llama, "embed", reduce=Moments) as reduced:
        tiny_llama(ids(), attention_mask=mask)
    moments = reduced.reducer("embed")
    assert isinstance(moments, Moments)
    assert moments.n_rows == 11
    torch.testing.assert_close(moments.mean, acts["embed"][mask.bool()].double().mean(0))


def test_patterns_of_several_passes_are_never_joined(tiny_llama) -> None:
    with torch.no_grad(), capture(tiny_llama, "layers.0.attn.pattern") as acts:
        tiny_llama(ids())
        tiny_llama(ids())
    with pytest.raises(OptionError, match=r"\.chunks\('layers.0.attn.pattern'\)"):
        _ = acts["layers.0.attn.pattern"]


def test_a_part_of_the_model_run_by_itself_is_refused(tiny_llama) -> None:
    """Its rows would be taken for those of the pass before."""
    for _ in range(2):
        with torch.no_grad(), capture(tiny_llama, "embed") as acts:
            tiny_llama(ids())
            with pytest.raises(OptionError, match="outside a pass of the whole model"):
                tiny_llama.module.model(ids())
        assert acts["embed"].shape == (2, 7, 32)


def checkpointed() -> Model:
    model = wrap_model(tiny_module("llama"))
    model.module.train()
    model.module.activation_checkpointing_enable()
    return model


def test_checkpointed_layers_are_captured_once_at_their_ends() -> None:
    """transformers checkpoints inside the layer, so that what enters and leaves it is seen once."""
    sites = ("layers.1.resid_pre", "layers.1.resid_post")
    model, plain = checkpointed(), wrap_model(tiny_module("llama"))
    with capture(model, *sites) as acts, capture(plain, *sites) as expected:
        plain(ids())
        model(ids(), use_cache=False).logits.square().mean().backward()
    for site in sites:
        assert len(acts.chunks(site)) == 1
        torch.testing.assert_close(acts[site], expected[site])
    assert model.module.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_sites_inside_a_checkpointed_layer_are_refused_in_backward() -> None:
    """They run again there, outside any pass: their rows would come twice."""
    model, site = checkpointed(), "layers.1.attn.out"
    with capture(model, site) as acts:
        loss = model(ids(), use_cache=False).logits.square().mean()
        with pytest.raises(OptionError, match="gradient checkpointing .* must be off"):
            loss.backward()
        loss = model(ids(), use_cache=False).logits.square().mean()
    loss.backward()
    assert len(acts.chunks(site)) == 2


def test_positions_count_on_where_a_cache_does_not_say_how_long_it_is() -> None:
    """A purely recurrent cache: the second pass begins where the first one ended."""
    model = wrap_model(tiny_module("mamba2"))
    cache = DynamicCache(config=model.config)
    seen: list[int] = []
    stop = watch_forwards(model.module, lambda forward: seen.append(forward.offset), lambda: None)
    with torch.no_grad():
        for chunk in (ids(1, 8), ids(1, 1), ids(1, 1)):
            model(chunk, past_key_values=cache, use_cache=True)
    stop()
    assert seen == [0, 8, 9]
