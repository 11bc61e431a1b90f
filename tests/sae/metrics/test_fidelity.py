import numpy as np
import pytest
import torch

from fluoroscope.probes import Model, capture, intervene
from fluoroscope.probes.readings import Texts, next_token
from fluoroscope.sae import make_sae
from fluoroscope.sae.metrics import fidelity, rebuild, sparse_codes, splice
from fluoroscope.sae.metrics.fidelity import replaced

SITE = "layers.1.resid_post"


class Same:
    W_dec = torch.eye(32)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes


class Nothing(Same):
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(codes)


def texts(n: int = 4, length: int = 12) -> Texts:
    generator = np.random.default_rng(0)
    ids = tuple(generator.integers(0, 256, length + (i % 2)).astype(np.int64) for i in range(n))
    return Texts(ids, tuple(map(str, range(n))))


def test_identity_scores_one_and_zero_scores_nothing(tiny_llama: Model) -> None:
    found = fidelity(tiny_llama, SITE, texts(), {"same": Same(), "nothing": Nothing()})
    same, nothing = found.dictionaries["same"], found.dictionaries["nothing"]
    assert (same.ce_score, same.kl_score, same.delta_loss) == (1.0, 1.0, 0.0)
    assert (nothing.ce_score, nothing.kl_score) == (pytest.approx(0, abs=1e-5),) * 2
    assert nothing.loss == pytest.approx(found.zero_loss, abs=1e-6)
    assert found.clean_loss == pytest.approx(next_token(tiny_llama, texts()).loss, abs=1e-5)


def test_mean_ablation_puts_the_mean_of_replaced_rows(tiny_llama: Model) -> None:
    some = texts()
    rows, losses = [], []
    for _, ids in some.batches():
        with capture(tiny_llama, SITE) as held:
            tiny_llama(ids)
        rows.append(held[SITE][:, 1:].reshape(-1, 32))
    mean = torch.cat(rows).mean(0)
    for _, ids in some.batches():

        def put(value: torch.Tensor) -> torch.Tensor:
            out = value.clone()
            out[:, 1:] = mean
            return out

        with intervene(tiny_llama, {SITE: put}):
            scores = tiny_llama(ids).logits[:, :-1].log_softmax(-1)
        losses.append(-scores.gather(-1, ids[:, 1:, None]).flatten())
    found = fidelity(tiny_llama, SITE, some, {"same": Same()})
    assert found.mean_loss == pytest.approx(torch.cat(losses).mean().item(), abs=1e-5)


class Half(Same):
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return 0.5 * codes


def test_divergence_is_from_the_clean_prediction_and_scores_are_of_their_ablation(
    tiny_llama: Model,
) -> None:
    some, total, n = texts(), 0.0, 0
    table = fidelity(tiny_llama, SITE, some, {"half": Half()})
    found = table.dictionaries["half"]
    for _, ids in some.batches():
        where = replaced(ids, tiny_llama.vocabulary.special)
        with torch.no_grad():
            clean = tiny_llama(ids).logits[:, :-1].log_softmax(-1)
            with intervene(tiny_llama, {SITE: splice(Half(), where)}):
                other = tiny_llama(ids).logits[:, :-1].log_softmax(-1)
        total += torch.nn.functional.kl_div(other, clean, log_target=True, reduction="sum").item()
        n += ids[:, 1:].numel()
    assert found.kl == pytest.approx(total / n, rel=1e-3)
    for score, ablated in (
        (found.ce_score, table.zero_loss),
        (found.ce_score_mean, table.mean_loss),
    ):
        expected = (ablated - found.loss) / (ablated - table.clean_loss)
        assert score == pytest.approx(expected, rel=1e-3)


def test_special_and_first_tokens_stay(tiny_llama: Model) -> None:
    ids = torch.tensor([[5, 256, 7, 8]])
    where = replaced(ids, tiny_llama.vocabulary.special)
    assert where.tolist() == [[False, False, True, True]]
    value = torch.ones(1, 4, 32)
    spliced = splice(Nothing(), where)(value)
    assert spliced[0, :, 0].tolist() == [1, 1, 0, 0]


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_dictionary_may_lie_on_another_device_than_the_rows(device: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    sae = make_sae("topk", d_in=8, d_sae=16, k=2).eval().to(device)
    other = "cuda" if device == "cpu" else "cpu"
    value = torch.ones(2, 3, 8, device=other, dtype=torch.bfloat16)
    made = splice(sae, torch.ones(2, 3, dtype=torch.bool), error_term=True)(value)
    assert (made.device.type, made.dtype) == (other, torch.bfloat16)
    rows = value.reshape(-1, 8).float()
    codes = sparse_codes(sae, rows)
    assert codes.values.device.type == rebuild(sae, codes, rows).device.type == other


def test_error_term_leaves_all_but_the_edited_codes() -> None:
    value = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(splice(Nothing(), error_term=True)(value), value)
    knocked = splice(Same(), edit_codes=lambda c: c * (torch.arange(8) != 3), error_term=True)(
        value
    )
    assert torch.allclose(knocked[..., 3], torch.zeros(2, 3), atol=1e-6)
    assert torch.equal(knocked[..., :3], value[..., :3])
