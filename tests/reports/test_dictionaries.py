"""Pages of sparse autoencoders: what is shown is what is stored, whatever the tokens say."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluoroscope.probes import Provenance, Result, Run, create_run, open_run
from fluoroscope.probes.vocabulary import Vocabulary
from fluoroscope.reports import build_report
from fluoroscope.reports.section import Context, Section, read_stored
from fluoroscope.reports.sections import RENDERERS
from fluoroscope.reports.templating import macro
from fluoroscope.sae.comparison import SaeComparison
from fluoroscope.sae.features.cards import FeatureCards
from fluoroscope.sae.features.paths import PursuitPaths
from fluoroscope.sae.joint.study import JointStudy
from fluoroscope.sae.metrics.activity import BIN_EDGES
from fluoroscope.sae.synthetic.study import Cell, as_result

WORDS = [b" the", b"\n", b"</script><b>", b"\xe2\x80\xae", b"def", b"\xff", b"(", b" x"]


def comparison(**more: Any) -> SaeComparison:
    generator = np.random.default_rng(0)
    n, bins = 4, len(BIN_EDGES) - 1
    values: dict[str, Any] = {
        field.name: generator.random(n)
        for field in fields(SaeComparison)
        if field.type == "np.ndarray"
    }
    values |= {
        "site": "layers.1.resid_post",
        "conditions": np.array(["topk", "mp", "PCA, k=8", "random, k=8"]),
        "architecture": np.array(["topk", "mp", "principal components", "random decoder"]),
        "trained_here": np.array([True, False, False, False]),
        "d_sae": np.array([64, 64, 32, 64]),
        "l0": np.array([8.0, 7.5, 8.0, 8.0]),
        "fvu": np.array([0.2, 0.15, 0.3, 0.6]),
        "n_dead": np.array([3, 5, 0, 1]),
        "density_counts": generator.integers(0, 9, (n, bins)),
        "density_edges": BIN_EDGES,
        "babel": np.cumsum(generator.random((n, 16)), axis=1),
        "babel_coactive": np.cumsum(generator.random((n, 16)), axis=1),
        "n_rows": 1000,
        "n_documents": 10,
        "clean_loss": 2.0,
        "zero_loss": 9.0,
        "mean_loss": 7.0,
        "n_loss_tokens": 200,
        "probe_label": "python-class",
        "classes": np.array(["name", "string"]),
        "probe_sizes": np.array([1, 2, 5]),
        "probe_accuracy": generator.random((n, 2, 3)),
        "probe_baseline": generator.random((2, 3)),
        "probe_full": generator.random(2),
    }
    return SaeComparison(**(values | more))


def cards() -> FeatureCards:
    generator = np.random.default_rng(1)
    n, room, width = 2, 6, 31
    values: dict[str, Any] = {
        "site": "layers.1.resid_post",
        "label": "topk <i>32</i>",
        "architecture": "topk",
        "rule": "asked for",
        "n_rows": 1000,
        "d_sae": 64,
        "before": 20,
        "listed": np.arange(5),
        "features": np.array([4, 2]),
        "histogram": generator.integers(0, 50, (n, 24)),
        "edges": np.tile(np.linspace(0, 3, 25), (n, 1)),
        "context_ids": generator.integers(-1, len(WORDS), (n, room, width)),
        "context_values": (generator.random((n, room, width)) * 3).astype(np.float32),
        "context_group": np.array([[-1, -1, 0, 1, 2, -2]] * n),
        "context_rows": generator.integers(0, 1000, (n, room)),
        "position_density": generator.random((n, 8)),
    }
    values["context_ids"][:, :, 20] = 2
    values["context_values"][:, :, :5] = 0
    for field in fields(FeatureCards):
        if field.name not in values:
            shape = (5,) if field.name.startswith("listed") else (n,)
            if field.name in {
                "up_ids", "up_values", "down_ids", "down_values", "neighbours", "neighbour_cosines",
                "companions", "companion_shares",
            }:  # fmt: skip
                shape = (n, 5)
            whole = field.name.endswith("ids") or field.name in {
                "neighbours", "companions", "listed_neighbour"
            }  # fmt: skip
            values[field.name] = (
                generator.integers(0, len(WORDS), shape) if whole else generator.random(shape)
            )
    return FeatureCards(**values)


def paths() -> PursuitPaths:
    energy = np.cumprod(np.full((3, 5), 0.6), axis=1)
    return PursuitPaths(
        site="layers.1.resid_post", label="mp", text_ids=np.array([0, 2, 5]),
        atoms=np.array([[4, 2, -1, -1], [4, 9, 3, 1], [7, 4, 2, -1]]),
        values=np.ones((3, 4)), energy=energy / energy[:, :1],
        mean_energy=np.array([1, 0.6, 0.4, 0.3, 0.25]), low_energy=np.array([1, 0.5, 0.3, 0.2, 0.1]),
        high_energy=np.array([1, 0.7, 0.5, 0.4, 0.4]), steps_to_share=np.array([1, 2, 3, 4, 90]),
        early=np.array([4, 7]), early_rank=np.array([1.2, 1.5]), early_count=np.array([50, 20]),
        late=np.array([1, 3]), late_rank=np.array([3.9, 3.5]), late_count=np.array([12, 11]),
        repeats=0.1, n_rows=100,
    )  # fmt: skip


def study(protocol: str = "tree") -> Result:
    generator = np.random.default_rng(2)
    cells = [
        Cell(
            architecture=name, rho=rho, parent_mean=1.5, child_mean=1.5, seed=seed, n_steps=100,
            **{
                key: float(generator.random())
                for key in (
                    "matched_cosine", "flat_mse", "hierarchical_mse", "absorption",
                    "children_found", "l0", "fvu", "f1", "seconds",
                )
            },
        )
        for name in ("mp", "relu", "gated", "topk", "batchtopk", "jumprelu")
        for rho in (0.0, 0.3)
        for seed in (0, 1)
    ]  # fmt: skip
    return as_result(cells, protocol)


def joint() -> JointStudy:
    generator = np.random.default_rng(3)
    whole = {"edges": np.linspace(0, 1, 21), "counts": generator.integers(0, 9, (2, 20))}
    values: dict[str, Any] = {
        field.name: generator.random(2)
        for field in fields(JointStudy)
        if field.type == "np.ndarray"
    } | {field.name: 7 for field in fields(JointStudy) if field.type in {"int", "float"}}
    values |= whole | {
        "architecture": np.array(["mp", "topk"]),
        "scores": generator.random((2, 9)),
        "energy": generator.random((2, 9)),
        "summary": "9 digit pictures, 5 captions each",
    }
    return JointStudy(**values)


RESULTS = {
    "sae_comparison": comparison(),
    "sae_features": cards(),
    "sae_paths": paths(),
    "sae_synthetic": study(),
    "sae_absorption": study("absorption"),
    "sae_joint": joint(),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("saes") / "run.h5"
    with create_run(path, provenance=Provenance(model={"name": "m"})) as writer:
        writer.set_vocabulary(Vocabulary(tuple(WORDS), frozenset()))
        writer.close()
    made = open_run(path)
    for name, result in RESULTS.items():
        made.add_result(name, result)
    return made


def section(run: Run, name: str) -> Section:
    with run.reading() as file:
        stored = read_stored(name, file[f"results/{name}"])
        return RENDERERS[stored.kind](stored, Context(run, run.vocabulary, macro))


@pytest.mark.parametrize("name", RESULTS)
def test_every_figure_is_whole(run: Run, name: str) -> None:
    made = section(run, name)
    ids = [figure.id for figure in made.figures]
    assert len(set(ids)) == len(ids)
    for figure in made.figures:
        lengths = {len(column) for column in figure.data.values()}
        assert len(lengths) == 1, figure.id
        assert figure.reading
        assert "nan" not in figure.reading
        if figure.chart is not None:
            figure.vega_lite()


def test_shown_is_stored(run: Run) -> None:
    stored = RESULTS["sae_comparison"]
    figures = {figure.id: figure for figure in section(run, "sae_comparison").figures}
    np.testing.assert_array_equal(figures["sae_comparison-curve"].data["FVU"], stored.fvu)
    np.testing.assert_array_equal(figures["sae_comparison-loss"].data["KL (nats)"], stored.kl)
    held = cards()
    figures = {figure.id: figure for figure in section(run, "sae_features").figures}
    table = figures["sae_features-4-contexts"].data
    np.testing.assert_allclose(table["activation"], held.context_values[0, :5, 20])
    assert table["row"] == held.context_rows[0, :5].tolist()
    np.testing.assert_array_equal(
        figures["sae_features-2-histogram"].data["rows"], held.histogram[1]
    )


def test_shades_follow_activations(run: Run) -> None:
    held = cards()
    html = str(
        {f.id: f for f in section(run, "sae_features").figures}["sae_features-4-contexts"].html
    )
    shown = re.findall(r'class="tok q(\d)', html)
    visible = (held.context_ids[0, :5] >= 0) & (held.context_values[0, :5] != 0)
    expected = held.context_values[0, :5][visible] / held.maximum[0] * 8
    levels = np.clip(np.round(np.minimum(expected, 8)), 1, 8).astype(int)
    assert [int(level) for level in shown] == levels.tolist()


def test_the_page_escapes_tokens_and_names(run: Run, tmp_path: Path) -> None:
    html = build_report(run, tmp_path / "page.html").read_text()
    assert "</script><b>" not in re.sub(r"<script type=.*?</script>", "", html, flags=re.S)
    assert "<i>32</i>" not in html
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, flags=re.S)
    for block in blocks:
        json.loads(block)


def test_redacting_hides_contexts(run: Run, tmp_path: Path) -> None:
    html = build_report(run, tmp_path / "page.html", redact="text").read_text()
    assert "def" not in re.findall(r'class="stream contexts".*?</div>', html, flags=re.S)[0]
    assert "░" in html


def test_worse_than_random_is_said(run: Run) -> None:
    name = "sae_comparison"
    bad = comparison(fvu=np.array([0.7, 1.4, 0.3, 0.6]))
    run.add_result("bad", bad)
    with run.reading() as file:
        stored = replace(read_stored("bad", file["results/bad"]), name=name)
        made = RENDERERS[stored.kind](stored, Context(run, None, lambda *_: None))
    assert any("no better than a random decoder" in w for w in made.warnings)
    assert any("worse than their mean" in w for w in made.warnings)
    assert sum("trained on the run file" in w for w in made.warnings) == 1
