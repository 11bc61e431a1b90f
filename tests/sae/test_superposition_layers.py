"""Layer profiles from run files: cleaning, planted features counted, ranking, X-ray, command, page."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fluoroscope.cli import app
from fluoroscope.probes import (
    Model,
    Provenance,
    Run,
    capture_corpus,
    create_run,
    from_texts,
    open_run,
)
from fluoroscope.probes.errors import OptionError, UnknownSiteError
from fluoroscope.reports import build_report
from fluoroscope.running import BAD_INPUT, DONE
from fluoroscope.sae import ReluOptions, ReluSae
from fluoroscope.sae.superposition.layers import (
    LayerOptions,
    SiteRows,
    clean_rows,
    document_usage,
    layer_superposition,
)
from fluoroscope.sae.superposition.profile import LayerProfile
from fluoroscope.sae.superposition.xray import superposition_readings

SITES = ["layers.0.resid_post", "layers.1.resid_post", "layers.2.resid_post"]
QUICK = LayerOptions(n_steps=250, batch_rows=64, max_rows=4000, l1=0.2)
D = 12


def atoms(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.linalg.qr(torch.randn(D, D, generator=generator)).Q[:n]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Rows with 2, 5 and 10 features, one at a time; first tokens and one row are massive."""
    path = tmp_path_factory.mktemp("planted") / "run.h5"
    generator = torch.Generator().manual_seed(0)
    provenance = Provenance(model={"name": "planted"}, corpus={"description": "planted"})
    with create_run(path, provenance=provenance) as writer:
        for number in range(64):
            n = 32
            rows = {}
            for site, k in zip(SITES, (2, 5, 10), strict=True):
                which = torch.randint(k, (n,), generator=generator)
                strength = 1 + torch.rand(n, 1, generator=generator)
                rows[site] = atoms(k)[which] * strength
                rows[site][0] *= 1000
                if number == 3:
                    rows[site][5] *= 1000
            writer.append([f"d{number}"], [number], [np.arange(n, dtype=np.int32)], rows)
        writer.close()
    return open_run(path)


def test_rows_are_cleaned_and_scaled(planted: Run) -> None:
    found = clean_rows(planted, SITES[0], QUICK)
    assert found.n_dropped == 1
    assert len(found.rows) == 64 * 31 - 1
    assert found.rows.square().sum(1).mean().item() == pytest.approx(D, rel=1e-5)
    raw = planted.activations[SITES[0]].read().float()
    torch.testing.assert_close(found.rows[0], raw[1] * found.scale)
    assert torch.bincount(found.documents).tolist() == [31, 31, 31, 30] + [31] * 60
    few = clean_rows(planted, SITES[0], LayerOptions(max_rows=100, batch_rows=10))
    assert few.n_documents == 3, "whole documents up to the limit"
    with pytest.raises(OptionError, match="at least 5000 usable rows, got 1983"):
        clean_rows(planted, SITES[0], LayerOptions(batch_rows=5000))


def test_more_planted_features_count_more_and_layers_are_ranked(planted: Run) -> None:
    """The order is right; the level is not calibrated: spare latents share an atom among them."""
    found = layer_superposition(planted, SITES, QUICK)
    for f, k in zip(found.features, (2, 5, 10), strict=True):
        assert 0.9 * k <= f <= 24, (f, k)
    assert (np.diff(found.features) > 2).all()
    assert (found.fvu < 0.1).all()
    assert found.place.tolist() == [3, 2, 1]
    assert (found.rise < 0.02).all()
    assert (found.features_low < found.features_high).all()
    assert found.curve[0, -1] == pytest.approx(found.features[0])
    assert (np.diff(found.linear_dimension) > 0).all()
    assert found.psi == pytest.approx(found.features / D)
    assert np.nansum(found.shares, axis=1) == pytest.approx(np.ones(3))
    assert math.isnan(found.match_fvu)
    assert np.isnan(found.matched).all()


def test_matched_fvu_is_read_between_the_penalties(planted: Run) -> None:
    from fluoroscope.sae.superposition.layers import _matched

    fits = [(0.1, 10.0), (0.05, 20.0), (0.4, 5.0)]
    assert _matched(fits, 0.1) == pytest.approx(10)
    assert _matched(fits, 0.25) == pytest.approx(math.sqrt(50))
    assert math.isnan(_matched(fits, 0.5))
    assert math.isnan(_matched(fits, None))
    options = LayerOptions(n_steps=60, batch_rows=64, max_rows=1000, match_fvu=0.3)
    assert options.penalties == pytest.approx((0.1, 0.1 / 3, 0.3))
    found = layer_superposition(planted, SITES[:1], options)
    assert found.match_fvu == 0.3


def test_free_decoder_norms_do_not_change_the_count() -> None:
    """The same dictionary in two gauges: codes and atoms scaled against each other."""
    generator = torch.Generator().manual_seed(0)
    sae = ReluSae(ReluOptions(d_in=6, d_sae=9, decoder_norm="free"))
    other = ReluSae(ReluOptions(d_in=6, d_sae=9, decoder_norm="free"))
    stretch = torch.rand(9, generator=generator) + 0.2
    with torch.no_grad():
        other.W_enc.copy_(sae.W_enc * stretch)
        other.W_dec.copy_(sae.W_dec / stretch[:, None])
    rows = torch.randn(40, 6, generator=generator)
    given = SiteRows(rows, torch.arange(40) // 10, 4, 1.0, 0)
    one, fvu, l0 = document_usage(sae, given)
    two, fvu2, l02 = document_usage(other, given, batch_rows=7)
    torch.testing.assert_close(one.mass, two.mass, rtol=1e-5, atol=1e-6)
    assert fvu2 == pytest.approx(fvu, rel=1e-4)
    assert l02 == l0


def test_what_the_run_lacks_is_named(planted: Run) -> None:
    with pytest.raises(UnknownSiteError, match=r"got nowhere; it holds layers\.0\.resid_post"):
        layer_superposition(planted, ["nowhere"], QUICK)
    with pytest.raises(UnknownSiteError, match="no site"):
        layer_superposition(planted, [], QUICK)
    for wrong in ({"max_norm_ratio": 1.0}, {"match_fvu": 1.0}, {"n_steps": 0}):
        with pytest.raises(OptionError):
            LayerOptions(**wrong)  # type: ignore[arg-type]


def test_the_x_ray_reads_some_layers_or_none(planted: Run, tmp_path: Path) -> None:
    quick = LayerOptions(n_steps=5, batch_rows=64)
    found = superposition_readings(planted, quick, n_sites=2)
    profile = found["superposition_layers"]
    assert isinstance(profile, LayerProfile)
    assert profile.sites.tolist() == [SITES[0], SITES[2]]
    assert superposition_readings(planted, LayerOptions(batch_rows=4096)) == {}


def call(*args: object) -> tuple[int, dict]:
    result = CliRunner().invoke(app, ["superposition", *map(str, args), "--json", "--quiet"])
    return result.exit_code, json.loads(result.stdout)


def test_the_command_adds_the_profile_and_the_page_shows_it(planted: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, document = call(
        "layers", planted.path, "--every", 2, "--steps", 80, "--report", page, "-n", 4000
    )
    assert code == DONE, document
    result = document["result"]
    assert result["sites"] == [SITES[0], SITES[2]]
    assert "not calibrated" in result["caveat"]
    assert not planted.path.with_name("run.superposition").exists(), "the journal is taken away"
    html = page.read_text()
    assert ">Effective features by layer</h2>" in html
    assert "Which layers carry most features?" in html
    assert "not calibrated" in html
    code, document = call("layers", planted.path, "-s", "layers.9.resid_post")
    assert code == BAD_INPUT
    assert "layers.9.resid_post" in document["error"]["message"]


def test_an_experiment_is_one_command_with_table_and_page(tmp_path: Path) -> None:
    run, page = tmp_path / "toy.h5", tmp_path / "toy.html"
    arguments = ["toy", "--models", 6, "--steps", 20, "--rows", 300, "-o", run, "--report", page]
    shown = CliRunner().invoke(app, ["superposition", *map(str, arguments)])
    assert shown.exit_code == DONE, shown.output
    assert "not calibrated" in shown.output
    assert "correlation above 0.85" in shown.output
    assert ">Superposition: toy</h2>" in page.read_text()
    code, document = call("toy", "--models", 6, "--steps", 20, "--rows", 300, "-o", run)
    assert code == DONE
    verdicts = {claim["verdict"] for claim in document["result"]["claims"]}
    assert verdicts <= {"confirmed", "not confirmed", "undecided"}
    assert open_run(run).results == ("superposition_toy",)


@pytest.mark.parametrize(
    "command",
    ["layers", "toy", "parity", "sort", "dropout", "capacity", "grokking", "adversarial"],
)
def test_help_teaches_by_example(command: str) -> None:
    result = CliRunner().invoke(app, ["superposition", command, "--help"])
    assert result.exit_code == DONE
    assert result.output.count("Example: fluoroscope superposition") >= 2


@pytest.mark.slow
@pytest.mark.embedded
def test_the_embedded_models_layers_have_features(embedded: Model, tmp_path: Path) -> None:
    names = ("decoder.py", "encoder.py", "__init__.py")
    texts = [Path(json.__file__).parent.joinpath(name).read_text() for name in names]
    chunks = [t[i : i + 600] for t in texts for i in range(0, 9000, 600)]
    run = capture_corpus(
        embedded, from_texts(chunks, "json"), ["layers.3.resid_post", "layers.27.resid_post"],
        tmp_path / "run.h5", n_tokens=4000, context=128,
    )  # fmt: skip
    options = LayerOptions(expansion=1.0, n_steps=120, batch_rows=128)
    found = layer_superposition(run, list(run.sites), options)
    assert (found.fvu < 0.7).all()
    assert (found.features > 20).all()
    assert (found.features <= 576).all()
    assert (found.two_nn < 60).all()
    assert build_report(run).exists()
