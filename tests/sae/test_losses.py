"""Every term of every loss, against the formula written out densely."""

import pytest
import torch

from fluoroscope.sae import TrainingState, as_dense, make_sae, matching_pursuit
from fluoroscope.sae.gated import GatedSae
from fluoroscope.sae.jumprelu import PULL

N, D, P = 50, 8, 64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def variance(rows: torch.Tensor) -> torch.Tensor:
    return (rows - rows.mean(0)).square().sum() / len(rows)


def dead_latents(n: int) -> torch.Tensor:
    dead = torch.zeros(P, dtype=torch.bool)
    dead[torch.arange(n) * 3] = True
    return dead


@pytest.mark.parametrize("n_dead", [20, 4])
@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka"])
def test_auxiliary_loss_of_the_topk_family(name: str, n_dead: int) -> None:
    """Dead latents rebuild the error without the decoder's bias; fewer than k_aux count in part."""
    sae = make_sae(name, d_in=D, d_sae=P, k=4, auxk=0.3, k_aux=6).train()
    with torch.no_grad():
        sae.b_dec += 1.0
        sae.b_enc += 0.1 * normal(P, seed=3)
    x, dead = 3 * normal(N, D), dead_latents(n_dead)
    out = sae(x, state=TrainingState(dead=dead))
    with torch.no_grad():
        error = x - out.reconstruction
        pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc)[:, dead]
        top = pre.topk(min(6, n_dead), dim=1)
        codes = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
        squares = (codes @ sae.W_dec[dead] - error).square().sum() / N
        expected = 0.3 * squares * variance(x) / variance(error) * min(n_dead / 6, 1)
    torch.testing.assert_close(out.losses["auxk"], expected)


@pytest.mark.parametrize("n_dead", [20, 2])
def test_revival_of_matching_pursuit(n_dead: int) -> None:
    """Dead atoms go on where the pursuit ended; nothing but they learns from it."""
    sae = make_sae("mp", d_in=D, d_sae=P, k=4, auxk=0.3).train()
    x, dead = 3 * normal(N, D), dead_latents(n_dead)
    out = sae(x, state=TrainingState(dead=dead))
    with torch.no_grad():
        left = sae.pursue(x).residual
        rest = matching_pursuit(left, sae.W_dec[dead], n_steps=min(4, n_dead)).residual
        squares = rest.square().sum() / N
        expected = 0.3 * squares * variance(x) / variance(left) * min(n_dead / 4, 1)
    torch.testing.assert_close(out.losses["auxk"], expected)
    torch.testing.assert_close(out.loss, out.losses["auxk"] + out.losses["reconstruction"])
    out.losses["auxk"].backward()
    assert sae.W_dec.grad is not None
    assert not sae.W_dec.grad[~dead].any()
    assert sae.W_dec.grad[dead].any()
    assert sae.b_dec.grad is None or not sae.b_dec.grad.any()


@pytest.mark.parametrize("penalty", ["target", "step", "tanh"])
def test_penalties_of_jumprelu(penalty: str) -> None:
    sae = make_sae(
        "jumprelu", d_in=D, d_sae=P, k=5, penalty=penalty, sparsity=0.7, initial_threshold=0.4,
        decoder_norm="free",
    ).train()  # fmt: skip
    x = normal(N, D)
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, P)[:, None]
        out = sae(x, state=TrainingState(sparsity=0.5))
        pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        codes = pre * (pre > 0.4)
        lengths = sae.W_dec.norm(dim=1)
    torch.testing.assert_close(as_dense(out.codes), codes)
    l0 = (pre > 0.4).sum(1).float().mean()
    assert 5 < l0 < P - 5
    expected = {
        "target": (l0 / 5 - 1) ** 2,
        "step": l0,
        "tanh": torch.tanh(4 * codes * lengths).sum(1).mean(),
    }[penalty]
    torch.testing.assert_close(out.losses["sparsity"], 0.7 * 0.5 * expected)
    if penalty == "tanh":
        pull = ((0.4 - pre).clamp(min=0) * lengths).sum(1).mean()
        torch.testing.assert_close(out.losses["pull"], PULL * pull)
    assert set(out.losses) == {"reconstruction", "sparsity"} | (
        {"pull"} if penalty == "tanh" else set()
    )


def test_codes_and_losses_of_the_gated_autoencoder() -> None:
    sae = make_sae("gated", d_in=D, d_sae=P, l1=0.2, apply_b_dec_to_input=False).train()
    assert isinstance(sae, GatedSae)
    with torch.no_grad():
        for number, held in enumerate((sae.b_gate, sae.b_mag, sae.r_mag, sae.b_dec)):
            held.copy_(0.5 * normal(len(held), seed=number))
    x = normal(N, D, seed=9)
    out = sae(x, state=TrainingState(sparsity=0.5))
    with torch.no_grad():
        shared = x @ sae.W_enc
        gate = shared + sae.b_gate
        codes = (gate > 0) * (torch.exp(sae.r_mag) * shared + sae.b_mag).clamp(min=0)
        opened = gate.clamp(min=0)
        by_gate = (opened @ sae.W_dec + sae.b_dec - x).square().sum() / N
    torch.testing.assert_close(as_dense(out.codes), codes)
    torch.testing.assert_close(out.losses["l1"], 0.2 * 0.5 * opened.sum(1).mean())
    torch.testing.assert_close(out.losses["gate"], by_gate)
    out.losses["gate"].backward()
    assert sae.W_dec.grad is None
    assert sae.b_dec.grad is None


@pytest.mark.parametrize(("policy", "weighted"), [("unit", False), ("ball", True), ("free", True)])
def test_the_l1_penalty_is_weighed_where_atoms_have_a_length(policy: str, weighted: bool) -> None:
    sae = make_sae("relu", d_in=D, d_sae=P, l1=0.2, decoder_norm=policy).train()
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 1, P)[:, None]
    out = sae(normal(N, D), state=TrainingState(sparsity=0.5))
    lengths = sae.W_dec.norm(dim=1) if weighted else 1.0
    torch.testing.assert_close(out.losses["l1"], 0.2 * 0.5 * (out.codes * lengths).sum(1).mean())
