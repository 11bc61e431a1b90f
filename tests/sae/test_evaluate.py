import numpy as np
import pytest
import torch

from fluoroscope.probes import Model, Run
from fluoroscope.probes.errors import OptionError
from fluoroscope.sae import make_sae
from fluoroscope.sae.comparison import SaeComparison
from fluoroscope.sae.evaluate import evaluate
from fluoroscope.sae.heldout import EvaluateOptions, held_out
from fluoroscope.sae.metrics import fvu

from .features.conftest import SITE, dictionary, rows, tiny_run  # noqa: F401

SMALL = EvaluateOptions(n_loss_tokens=200, n_geometry_rows=100)


@pytest.fixture(scope="module")
def compared(tiny_run: Run, rows: torch.Tensor) -> SaeComparison:  # noqa: F811
    sae = make_sae("topk", d_in=32, d_sae=64, k=4)
    sae.initialise(rows)
    return evaluate(tiny_run, SITE, {"mine": sae}, options=SMALL)


def test_documents_are_fitted_on_or_measured_on(tiny_run: Run) -> None:  # noqa: F811
    parts = held_out(tiny_run, SMALL)
    assert not set(parts.source[parts.fit]) & set(parts.source[parts.test])
    assert parts.kept[parts.fit].all()
    few = held_out(tiny_run, EvaluateOptions(n_rows=50))
    assert few.kept[few.test].sum() == 50


def test_numbers_are_those_of_the_rows(tiny_run: Run, rows: torch.Tensor) -> None:  # noqa: F811
    sae = make_sae("topk", d_in=32, d_sae=64, k=4)
    sae.initialise(rows)
    found = evaluate(tiny_run, SITE, {"mine": sae}, options=SMALL)
    parts = held_out(tiny_run, SMALL)
    where = parts.test[parts.kept[parts.test]]
    with torch.no_grad():
        codes = sae.encode(rows[where])
        made = sae.decode(codes)
    assert found.fvu[0] == pytest.approx(fvu(rows[where], made), rel=1e-5)
    assert found.l0[0] == pytest.approx(float((codes != 0).sum(1).float().mean()))
    assert found.n_dead[0] == int((codes != 0).sum(0).eq(0).sum())
    assert found.n_rows == len(where)
    assert not found.trained_here.any()
    everything = sae.decode(sae.encode(rows[parts.test])).detach()
    assert found.fvu_all[0] == pytest.approx(fvu(rows[parts.test], everything), rel=1e-5)


def test_a_dictionary_trained_on_the_run_is_told(
    tiny_run: Run,  # noqa: F811
    rows: torch.Tensor,  # noqa: F811
) -> None:
    sae = make_sae("topk", d_in=32, d_sae=64, k=4)
    sae.initialise(rows)
    corpus = tiny_run.provenance.corpus["description"]
    sae.metadata = {"source": {"run": tiny_run.path.name, "corpus": corpus}}
    options = EvaluateOptions(n_loss_tokens=0, n_rows=50, n_geometry_rows=20, baselines=False)
    assert evaluate(tiny_run, SITE, {"mine": sae}, options=options).trained_here.tolist() == [True]


def test_baselines_of_equal_l0_stand_beside(compared: SaeComparison) -> None:
    assert compared.conditions.tolist() == ["mine", "PCA, k=4", "random, k=4"]
    np.testing.assert_allclose(compared.l0[1:], 4)
    assert compared.fvu[1] < compared.fvu[2]
    assert np.isnan(compared.loss).all()
    assert compared.mean_cosine[1] == pytest.approx(0, abs=1e-5)


def test_fidelity_is_measured_with_the_model(
    tiny_run: Run,  # noqa: F811
    dictionary: torch.nn.Module,  # noqa: F811
    tiny_llama: Model,
) -> None:
    found = evaluate(tiny_run, SITE, {"random": dictionary}, model=tiny_llama, options=SMALL)
    assert found.n_loss_tokens > 0
    assert np.isfinite(found.delta_loss).all()
    np.testing.assert_allclose(found.loss - found.clean_loss, found.delta_loss, atol=1e-6)


def test_token_probes_beside_channels(tiny_run: Run, dictionary: torch.nn.Module) -> None:  # noqa: F811
    options = EvaluateOptions(n_loss_tokens=0, probe_label="python-class", baselines=False)
    found = evaluate(tiny_run, SITE, {"random": dictionary}, options=options)
    assert len(found.classes) > 1
    assert found.probe_accuracy.shape == (1, len(found.classes), 3)
    assert (found.probe_full > 0.5).all()


def test_nothing_to_judge_is_refused(tiny_run: Run) -> None:  # noqa: F811
    with pytest.raises(OptionError, match="at least one dictionary"):
        evaluate(tiny_run, SITE, {})
    with pytest.raises(OptionError, match="probe_label must be one of"):
        EvaluateOptions(probe_label="sentiment")
