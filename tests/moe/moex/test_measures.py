"""Coverage, reconstruction, autoencoder and detection: closed forms and planted features."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from fluoroscope.moe.moex.autoencoder import AutoencoderOptions, fit_autoencoder
from fluoroscope.moe.moex.coverage import coverage, f1_scores, reconstruction
from fluoroscope.moe.moex.detection import DetectionOptions, detection_scores
from fluoroscope.probes.errors import OptionError


def random_bools(n_rows: int, n: int, share: float, seed: int) -> torch.Tensor:
    return torch.rand(n_rows, n, generator=torch.Generator().manual_seed(seed)) < share


def test_f1_is_sklearns() -> None:
    fires, present = random_bools(60, 5, 0.4, 0), random_bools(60, 3, 0.3, 1)
    found = f1_scores(fires, present)
    for f in range(5):
        for p in range(3):
            expected = f1_score(present[:, p].numpy(), fires[:, f].numpy())
            assert float(found[f, p]) == pytest.approx(expected, abs=1e-6)


def test_a_feature_equal_to_a_property_covers_it() -> None:
    present = random_bools(200, 4, 0.3, 0)
    codes = present.float() * (1 + torch.arange(4))
    found = coverage(codes, present)
    assert found.per_property == found.common == 1.0
    assert found.feature.tolist() == [0, 1, 2, 3]
    assert reconstruction(codes, present, codes, present).f1 == 1.0


def test_a_constant_feature_reaches_what_prevalence_allows() -> None:
    present = random_bools(500, 1, 0.3, 0)
    share = float(present.float().mean())
    found = coverage(torch.ones(500, 1), present)
    assert found.per_property == pytest.approx(2 * share / (1 + share), abs=1e-6)


def test_more_features_never_cover_less() -> None:
    present = random_bools(300, 6, 0.4, 0)
    codes = torch.randn(300, 20, generator=torch.Generator().manual_seed(1)).relu()
    found = [coverage(codes[:, :n], present).per_property for n in (1, 5, 20)]
    assert found == sorted(found)


def test_a_graded_feature_needs_its_threshold_and_what_never_varies_is_left_out() -> None:
    present = torch.zeros(100, 3, dtype=torch.bool)
    present[:30, 0] = True
    present[:, 2] = True
    codes = torch.full((100, 1), 0.35)
    codes[:30] = 1.0
    found = coverage(codes, present)
    assert found.per_property == 1.0
    assert found.threshold[0] in (pytest.approx(0.4), pytest.approx(0.9))
    assert np.isnan(found.best[1:]).all()
    assert found.feature[1:].tolist() == [-1, -1]
    with pytest.raises(OptionError, match="varies|some of them"):
        coverage(codes, present[:, 1:])


def test_reconstruction_in_closed_form() -> None:
    """A feature of precision 0.9 is no label; one that fires nine times is none either."""
    present = torch.zeros(100, 2, dtype=torch.bool)
    present[:20, 0] = True
    present[50:59, 1] = True
    codes = torch.zeros(100, 3)
    codes[:15, 0] = 1.0  # precise, recall 3/4
    codes[:20, 1] = codes[60:63, 1] = 1.0  # 20 of 23
    codes[50:59, 2] = 1.0  # precise, but rare
    found = reconstruction(codes, present, codes, present)
    assert found.n_features == 1
    assert found.precision == 1.0
    assert found.recall == pytest.approx(15 / 29)
    assert found.f1 == pytest.approx(2 * 15 / (15 + 29))


def test_the_autoencoder_finds_planted_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(24, 16, generator=generator)
    truth = truth / truth.norm(dim=1, keepdim=True)
    weights = (torch.rand(4000, 24, generator=generator) < 0.08) * torch.rand(
        4000, 24, generator=generator
    )
    rows = weights @ truth
    made = fit_autoencoder(
        rows, AutoencoderOptions(n_latents=48, n_active=4, steps=400, n_rows=512)
    )
    with torch.no_grad():
        error = (made(rows) - rows).square().sum() / (rows - rows.mean(0)).square().sum()
        assert float(error) < 0.2
        assert int((made.encode(rows) > 0).sum(1).max()) <= 4
    closest = (made.decoder.detach() @ truth.T).max(0).values
    assert float(closest.median()) > 0.9
    with pytest.raises(OptionError, match="n_active"):
        AutoencoderOptions(n_latents=4, n_active=8)


def detection_data(n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    contexts = generator.integers(0, 20, (n, 4))
    teaches = np.arange(n) < n // 2
    codes = np.zeros((n, 4))
    codes[:, 0] = (contexts[:, 0] == 3) * generator.random(n)  # one token
    codes[:, 1] = np.isin(contexts[:, 1], [4, 5, 6]) * 1.0  # the token before
    codes[:, 2] = generator.random(n) < 0.3  # nothing in reach
    codes[0, 3] = 1.0  # too rare
    return codes, contexts, teaches


def test_detection_tells_token_features_from_noise() -> None:
    """Noise: 2 x 50 held-out contexts; a score off 0.5 by 0.2 has odds below 1 in 10,000."""
    scores = []
    for feature in range(3):
        codes, contexts, teaches = detection_data()
        scores.append(detection_scores(codes[:, [feature]], contexts, teaches)[0])
    assert scores[0] == 1.0
    assert scores[1] > 0.85, "three tokens, some hardly seen in teaching"
    assert abs(scores[2] - 0.5) < 0.2


def test_rare_features_are_not_scored() -> None:
    codes, contexts, teaches = detection_data()
    assert len(detection_scores(codes, contexts, teaches)) == 3
    assert len(detection_scores(codes[:, 3:], contexts, teaches)) == 0
    few = DetectionOptions(n_features=2)
    assert len(detection_scores(codes, contexts, teaches, few)) == 2
    with pytest.raises(OptionError):
        DetectionOptions(n_contexts=1)
