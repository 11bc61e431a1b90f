"""MoE-X: the wide-MLP identity, sparsity-aware scores in closed form, a model like any other."""

import math
import subprocess
import sys

import pytest
import torch
from scipy.stats import norm, spearmanr
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GPT2LMHeadModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from fluoroscope.moe.layers import moe_layers
from fluoroscope.moe.moex.codes import layer_codes, wide_code
from fluoroscope.moe.moex.network import (
    LEAST_DEVIATION,
    MoexConfig,
    MoexForCausalLM,
    SparsityRouter,
    balance_loss,
)
from fluoroscope.probes import capture, intervene, open_model, wrap_model
from fluoroscope.probes.errors import UnsafeModelError
from tests.conftest import ids, n_hooks
from tests.families import GPT2, tiny_module
from tests.tokenizers_ import byte_tokenizer

WIDE = {
    "vocab_size": 32, "n_embd": 128, "n_layer": 1, "n_head": 4, "n_positions": 16,
    "num_experts": 8, "expert_size": 512, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def network(seed: int = 0, **options: object) -> MoexForCausalLM:
    torch.manual_seed(seed)
    return MoexForCausalLM(MoexConfig(**{**WIDE, **options})).eval()  # type: ignore[arg-type]


def planted_gaussians(seed: int = 0) -> MoexForCausalLM:
    """Experts whose neurons really are Gaussian draws, each with its own mean and spread."""
    made = network(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for expert in range(8):
            mean = 0.05 * torch.randn(128, generator=generator)
            spread = 0.05 + 0.1 * torch.rand(128, generator=generator)
            draws = torch.randn(512, 128, generator=generator)
            made.blocks[0].experts.up_proj[expert].copy_(mean + spread * draws)
    return made


def rows(n: int = 64, *, seed: int = 5) -> Tensor:
    return torch.randn(n, 128, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_mixture_is_one_wide_sparse_mlp() -> None:
    made = planted_gaussians()
    with torch.no_grad():
        made.blocks[0].experts.down_proj_bias.normal_()
    block, x = made.blocks[0], rows()
    layer = moe_layers(wrap_model(made, check=False))[0]
    _, weights, chosen = block.router(x, block.experts)
    code = wide_code(layer, x, chosen, weights)
    decoders = torch.cat(list(layer.down), dim=1)
    gates = torch.zeros(len(x), 8).scatter(1, chosen, weights)
    expected = code @ decoders.T + gates @ block.experts.down_proj_bias
    torch.testing.assert_close(block(x[None])[0], expected, rtol=1e-4, atol=1e-5)
    assert code.shape == (64, 8 * 512)
    assert int((code != 0).sum(1).max()) <= 2 * 512
    assert bool((code >= 0).all())


@torch.no_grad()
def test_scores_tell_how_many_neurons_fire() -> None:
    block, x = planted_gaussians().blocks[0], rows()
    assert isinstance(block.router, SparsityRouter)
    scores, _, _ = block.router(x, block.experts)
    active = torch.stack([(x @ up.T > 0).sum(1) for up in block.experts.up_proj], dim=1).float()
    expected = block.router.expected_active(scores, 512)
    assert spearmanr(scores.flatten(), -active.flatten()).statistic > 0.95
    assert (expected - active).abs().mean() < 0.03 * 512


@torch.no_grad()
def test_scores_are_the_formula() -> None:
    """Against the statement itself, one expert and token at a time, biases as one more input of 1."""
    made = network(initializer_range=0.1)
    block, x = made.blocks[0], rows(3)
    block.experts.up_proj_bias.normal_(std=0.3)
    scores, _, _ = block.router(x, block.experts)
    for token in range(3):
        for expert in range(8):
            encoder, bias = block.experts.up_proj[expert], block.experts.up_proj_bias[expert]
            m = float((encoder.mean(0) * x[token]).sum() + bias.mean())
            v = float((encoder.var(0, correction=0) * x[token] ** 2).sum())
            s = math.sqrt(v + float(bias.var(correction=0)))
            assert float(scores[token, expert]) == pytest.approx(1 - 2 * norm.cdf(m / s), abs=1e-5)


@torch.no_grad()
def test_symmetries_of_the_scores() -> None:
    made = planted_gaussians()
    block, x = made.blocks[0], rows()
    scores = block.router(x, block.experts)[0]
    for c in (0.1, 7.0):
        torch.testing.assert_close(
            block.router(c * x, block.experts)[0], scores, rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(block.router(-x, block.experts)[0], -scores, rtol=1e-4, atol=1e-5)
    order = torch.randperm(512, generator=torch.Generator().manual_seed(1))
    block.experts.up_proj.copy_(block.experts.up_proj[:, order].clone())
    torch.testing.assert_close(block.router(x, block.experts)[0], scores, rtol=1e-4, atol=1e-5)
    block.experts.up_proj.neg_()
    torch.testing.assert_close(block.router(x, block.experts)[0], -scores, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_gates_are_bounded_as_scores_are() -> None:
    block = planted_gaussians().blocks[0]
    _, weights, chosen = block.router(50 * rows(), block.experts)
    torch.testing.assert_close(weights.sum(-1), torch.ones(64))
    assert weights.shape == chosen.shape == (64, 2)
    assert float(weights.max()) <= math.exp(2) / (1 + math.exp(2))
    silent = block.router(torch.zeros(1, 128), block.experts)[0]
    assert bool(silent.isfinite().all()), f"a zero token divides by {LEAST_DEVIATION}"


@torch.no_grad()
def test_copied_experts_tie() -> None:
    made = network()
    experts = made.blocks[0].experts
    experts.up_proj.copy_(experts.up_proj[:1].expand(8, -1, -1).clone())
    scores = made.blocks[0].router(rows(), experts)[0]
    torch.testing.assert_close(scores, scores[:, :1].expand(-1, 8), rtol=0, atol=1e-6)


def test_gradients_reach_the_encoders_unless_detached() -> None:
    for detach in (False, True):
        block = network(detach_gate=detach).blocks[0]
        scores = block.router(rows(), block.experts)[0]
        if detach:
            assert not scores.requires_grad
        else:
            scores.sum().backward()
            gradient = block.experts.up_proj.grad
            assert gradient is not None
            assert float(gradient.abs().max()) > 0


@torch.no_grad()
def test_moments_are_kept_until_weights_change() -> None:
    block, x = network().blocks[0], rows()
    before = block.router(x, block.experts)[0]
    assert block.router._moments(block.experts)[0] is block.router._moments(block.experts)[0]
    block.experts.up_proj[0].add_(0.05)
    after = block.router(x, block.experts)[0]
    assert not torch.allclose(before[:, 0], after[:, 0])
    torch.testing.assert_close(before[:, 1:], after[:, 1:])


def test_balance_loss_is_one_at_balance_and_the_peers() -> None:
    n = torch.arange(8)
    even = torch.stack([n, (n + 1) % 8], dim=1)
    scores = torch.zeros(8, 8)
    assert float(balance_loss(scores, torch.ones(8, 2), even)) == pytest.approx(1.0)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(50, 8, generator=generator)
    chosen = scores.topk(2).indices
    ours = balance_loss(scores, torch.ones(50, 2), chosen)
    theirs = load_balancing_loss_func((scores,), num_experts=8, top_k=2)  # sums over slots
    torch.testing.assert_close(ours, theirs / 2)


@pytest.mark.parametrize("gate", ["chosen", "all"])
def test_the_temperature_divides_scores_in_gates_and_balance(gate: str) -> None:
    scores = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
    made = network(gate=gate, gate_temperature=0.25)
    found, weights, chosen = made.blocks[0].router.decide(scores)
    assert torch.equal(found, scores), "what is reported is not divided"
    logits = 4 * scores.gather(1, chosen)
    whole = logits.exp().sum(1) if gate == "chosen" else (4 * scores).exp().sum(1)
    torch.testing.assert_close(weights, logits.exp() / whole[:, None])
    torch.testing.assert_close(
        balance_loss(scores, weights, chosen, temperature=0.25),
        balance_loss(4 * scores, weights, chosen),
    )


def test_loss_is_next_token_loss_plus_balance() -> None:
    made = network(balance_coefficient=0.5)
    tokens = torch.randint(0, 32, (2, 16), generator=torch.Generator().manual_seed(0))
    out = made(tokens, labels=tokens, output_router_logits=True)
    torch.testing.assert_close(out.loss, out.lm_loss + 0.5 * out.balance_loss)
    plain = torch.nn.functional.cross_entropy(
        made(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    )
    torch.testing.assert_close(out.lm_loss, plain)
    assert [tuple(s.shape) for s in out.router_logits] == [(32, 8)]
    assert n_hooks(made) == 0


@torch.no_grad()
@pytest.mark.parametrize("told_by", ["labels", "mask"])
def test_padding_is_not_balanced(told_by: str) -> None:
    made = network(routing="learned", initializer_range=0.5)
    tokens = torch.randint(1, 32, (2, 9), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([tokens, torch.zeros(2, 6, dtype=torch.long)], dim=1)
    real = torch.arange(15).expand(2, -1) < 9
    labels, mask = padded.masked_fill(~real, -100), {}
    if told_by == "mask":  # a prompt without labels is balanced like any other token
        labels, mask = labels.index_fill(1, torch.arange(4), -100), {"attention_mask": real.long()}
    found = made(padded, labels=labels, **mask).balance_loss
    torch.testing.assert_close(found, made(tokens, labels=tokens).balance_loss)


@torch.no_grad()
@pytest.mark.parametrize("routing", ["sparsity", "learned"])
def test_every_implementation_gives_the_same(routing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if a GPT-2 had been asked before in this process.
    monkeypatch.setattr(
        GPT2LMHeadModel, "_can_set_experts_implementation_cached_value", False, raising=False
    )
    made = network(routing=routing, initializer_range=0.1)
    tokens = torch.randint(0, 32, (2, 16), generator=torch.Generator().manual_seed(0))
    found = {}
    for name in ("eager", "grouped_mm", "batched_mm"):
        made.set_experts_implementation(name)
        found[name] = made(tokens).logits
    torch.testing.assert_close(found["eager"], found["grouped_mm"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["eager"], found["batched_mm"], rtol=1e-4, atol=1e-5)


def test_it_trains() -> None:
    made = network(n_positions=16).train()
    tokens = torch.randint(0, 32, (4, 16), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        out = made(tokens, labels=tokens)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(float(out.lm_loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_saved_it_loads_opens_and_generates(tmp_path) -> None:
    module = tiny_module("moex")
    module.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with torch.no_grad():
        expected = module(ids()).logits
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert isinstance(again, MoexForCausalLM)
        torch.testing.assert_close(again(ids()).logits, expected)
        opened = open_model(tmp_path, dtype="float32")
        torch.testing.assert_close(opened(ids()).logits, expected)
        made = opened.generate(
            ids(1, 5), max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0
        )
        text = ids(1, 5)
        for _ in range(6):  # with a cache as without
            text = torch.cat([text, module(text).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(made, text)
    assert AutoConfig.from_pretrained(tmp_path).expert_size == 24


def test_transformers_alone_loads_it_with_the_code_that_came_along(tmp_path) -> None:
    module = tiny_module("moex")
    module.save_pretrained(tmp_path / "m")
    with torch.no_grad():
        expected = float(module(ids()).logits.double().sum())
    code = f"""
import sys, torch
from transformers import AutoModelForCausalLM
made = AutoModelForCausalLM.from_pretrained({str(tmp_path / "m")!r}, trust_remote_code=True)
generator = torch.Generator().manual_seed(0)
ids = torch.randint(0, 256, (2, 7), generator=generator)
with torch.no_grad():
    print(float(made(ids).logits.double().sum()))
assert not any(name.startswith("fluoroscope.") for name in sys.modules)
"""
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin"}
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert float(out.stdout) == pytest.approx(expected, rel=1e-4)


def test_other_code_in_a_checkpoint_is_still_refused(tmp_path) -> None:
    import json

    tiny_module("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsafeModelError):
        open_model(tmp_path)


@torch.no_grad()
def test_edited_scores_are_routed_by_the_models_own_rule() -> None:
    model = wrap_model(tiny_module("moex"), name="moex")

    def favour(scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[..., 3] = 5.0
        return scores

    from fluoroscope.moe.routing import watch_routing

    with intervene(model, {"layers.1.router.logits": favour}), watch_routing(model) as seen:
        model(ids())
    assert bool((seen[1].expert_ids[:, 0] == 3).all())
    with capture(model, "layers.1.router.logits", "layers.1.experts.out") as acts:
        model(ids())
    assert acts["layers.1.router.logits"].shape == (2, 7, 4)
    assert acts["layers.1.experts.out"].shape == (2, 7, 2, 32)


@torch.no_grad()
def test_codes_of_dense_and_mixed_layers() -> None:
    mixed, dense = (wrap_model(tiny_module(name), name=name) for name in ("moex", "gpt2"))
    keep = torch.zeros(2, 7, dtype=torch.bool)
    keep[0, 3] = keep[1, 5] = True
    whole = torch.ones_like(keep)
    for model, width in ((mixed, 4 * 24), (dense, 128)):
        some, everything = (layer_codes(model, ids(), 1, k) for k in (keep, whole))
        assert some.shape == (2, width)
        torch.testing.assert_close(some, everything[[3, 12]], rtol=1e-5, atol=1e-6)
    hooks = n_hooks(mixed.module)
    layer_codes(mixed, ids(), 1, keep)
    assert n_hooks(mixed.module) == hooks


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"num_experts_per_tok": 9}, "from 1 to num_experts"),
        ({"routing": "hash"}, "'sparsity' or 'learned'"),
        ({"gate_temperature": 0.0}, "above 0"),
    ],
)
def test_impossible_configurations_are_refused(wrong: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MoexConfig(**{**GPT2, **wrong})
