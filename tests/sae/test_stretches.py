"""Learning in stretches of rows is learning from the whole batch, and holds no full matrix."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fluoroscope.sae import (
    Learner,
    LearnOptions,
    SaeSpec,
    ScheduleOptions,
    SparseAutoencoder,
    TensorRows,
    TrainingState,
    make_sae,
    stretches,
    train_saes,
)
from fluoroscope.sae.architectures import ARCHITECTURES
from fluoroscope.sae.stretches import add_gradients
from tests.sae.planting import planted

D, P, N = 8, 40, 300  # three stretches, the last a short one

CASES: dict[str, dict[str, Any]] = {
    "relu": {"l1": 0.3},
    "relu, free atoms": {"l1": 0.3, "decoder_norm": "free"},
    "relu, standardised rows": {"l1": 0.3, "input_norm": "token_std"},
    "relu, transcoder": {"l1": 0.3, "d_out": 5, "apply_b_dec_to_input": False},
    "gated": {"l1": 0.3},
    "gated, transcoder": {"l1": 0.3, "d_out": 5, "apply_b_dec_to_input": False},
    "jumprelu, target": {"penalty": "target", "k": 5},
    "jumprelu, step": {"penalty": "step"},
    "jumprelu, tanh": {"penalty": "tanh", "sparsity": 5.0, "decoder_norm": "free"},
    "jumprelu, transcoder": {"k": 5, "d_out": 5, "apply_b_dec_to_input": False},
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches of 128 rows, the least there are."""
    monkeypatch.setattr(stretches, "CPU_FLOATS", 1)


def made(case: str) -> SparseAutoencoder:
    name = case.partition(",")[0]
    options = dict(CASES[case])
    if name == "jumprelu":
        options |= {"bandwidth": 0.2, "initial_threshold": 0.3}
    sae = make_sae(name, d_in=D, d_sae=P, **options).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for held in sae.parameters():
            held += 0.2 * torch.randn(held.shape, generator=generator, dtype=torch.float64)
    return sae.train()


def batch(sae: SparseAutoencoder, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(N, D, generator=generator, dtype=torch.float64)
    target = rows @ torch.randn(D, 5, generator=generator, dtype=torch.float64)
    return rows, target if sae.is_transcoder else None


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("case", CASES)
def test_gradients_losses_and_counts_are_those_of_the_whole_batch(case: str) -> None:
    """Against the loss as it is written, differentiated at once."""
    whole, parts = made(case), made(case)
    rows, target = batch(whole)
    state = TrainingState(sparsity=0.7)
    wanted = whole(rows, target, state=state)
    wanted.loss.backward()
    found = add_gradients(parts, rows, target, state)
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert one.grad is not None, name
        assert other.grad is not None, name
        assert one.grad.any(), name
        close(other.grad, one.grad)
    assert found.losses.keys() == wanted.losses.keys()
    for name, term in wanted.losses.items():
        close(found.losses[name], term.detach())
    close(found.loss, wanted.loss.detach())
    close(found.reconstruction, wanted.reconstruction.detach())
    assert torch.equal(found.counts, (wanted.codes != 0).sum(0))
    assert found.l0 == pytest.approx(float((wanted.codes != 0).sum(1).double().mean()))


@pytest.mark.parametrize("case", CASES)
def test_training_in_stretches_is_training(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipped steps, warm-ups, dead latents and resampling, in one stretch and in three."""
    learners = []
    for floats in (2**24, 1):
        monkeypatch.setattr(stretches, "CPU_FLOATS", floats)
        learner = Learner(
            made(case),
            LearnOptions(
                schedule=ScheduleOptions(n_steps=40, sparsity_warmup_steps=4), learning_rate=0.01,
                clip_norm=0.1, dead_after_rows=3 * N, resample_every=4,
            ),
        )  # fmt: skip
        with torch.no_grad():  # four latents that cannot fire
            for bias in ("b_enc", "b_gate"):
                if hasattr(learner.sae, bias):
                    getattr(learner.sae, bias)[:4] = -100.0
        reports = []
        for step in range(6):
            rows, target = batch(learner.sae, seed=step)
            out, _ = learner.step(rows, target)
            reports.append(learner.report(rows, target, out))
            if step == 2:
                assert reports[-1].dead == pytest.approx(4 / P)
        learners.append((learner, reports))
    (one, wanted), (other, found) = learners
    for left, right in zip(one.sae.parameters(), other.sae.parameters(), strict=True):
        close(right.detach(), left.detach())
    assert float(one.optimiser.grad_scale) > 1  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(one.rows_since_fired, other.rows_since_fired)
    for left, right in zip(wanted, found, strict=True):
        assert (left.step, left.l0, left.dead) == (right.step, right.l0, right.dead)
        assert right.fvu == pytest.approx(left.fvu, rel=1e-10)
        assert right.losses == pytest.approx(left.losses, rel=1e-10)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that anything gave."""

    n_floats = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                held = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.n_floats = max(self.n_floats, held)
        return out


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_step_holds_a_matrix_of_rows_and_latents(name: str) -> None:
    latents = 6000
    k = {} if name in {"relu", "gated"} else {"k": 4}
    learner = Learner(
        make_sae(name, d_in=8, d_sae=latents, **k),
        LearnOptions(schedule=ScheduleOptions(n_steps=9), dead_after_rows=1),
    )
    x = torch.randn(1024, 8, generator=torch.Generator().manual_seed(0))
    with Largest() as largest:
        learner.step(x)
        learner.step(x)
    assert largest.n_floats < 512 * latents


@pytest.mark.usefixtures("short")
def test_going_on_in_stretches_is_bit_for_bit(tmp_path) -> None:
    rows = planted(n_rows=2000, d=16, p=32, k=3, noise=0.01)[0]
    learning = LearnOptions(schedule=ScheduleOptions(n_steps=12), learning_rate=3e-3)
    specs = [
        SaeSpec(name=name, architecture=name, site="x", options={"d_sae": 48}, learning=learning)
        for name in ("relu", "gated", "jumprelu")
    ]

    def train(folder: str, stop_at: int | None = None) -> Any:
        def progress(done: int, total: int | None, note: str) -> None:
            if done == stop_at:
                raise RuntimeError("power cut")

        return train_saes(
            TensorRows({"x": rows}, batch_rows=300), specs, folder=tmp_path / folder,
            checkpoint_every=5, progress=progress,
        )  # fmt: skip

    whole = train("a")
    with pytest.raises(RuntimeError, match="power cut"):
        train("b", stop_at=8)
    again = train("b")
    for name, trained in whole.items():
        for key, value in trained.sae.state_dict().items():
            assert torch.equal(value, again[name].sae.state_dict()[key]), (name, key)
