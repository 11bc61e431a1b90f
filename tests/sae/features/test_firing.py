"""What fires at traced tokens: the strongest latents of the states that the trace holds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fluoroscope.decoding import Stopping, make_engine, save_generations
from fluoroscope.probes import Provenance, create_run, open_run, wrap_model
from fluoroscope.probes.runfile.h5 import array, subgroup
from fluoroscope.sae.architectures import ARCHITECTURES, make_sae
from fluoroscope.sae.codes import as_dense
from fluoroscope.sae.features.firing import STRONGEST, add_trace_firing
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

SITE = "layers.1.resid_post"


@pytest.mark.parametrize(("name", "k"), [("topk", 3), ("topk", 20), ("omp", 6), ("omp", 20)])
def test_the_strongest_latents_stand_beside_the_states(tmp_path: Path, name: str, k: int) -> None:
    model = wrap_model(tiny_module("llama"), byte_tokenizer(), name="tiny")
    with create_run(tmp_path / "r.h5", provenance=Provenance()) as writer:
        writer.close()
    run = open_run(tmp_path / "r.h5")
    rules = Stopping(max_new_tokens=9, ignore_eos=True)
    made = {}
    for kind, sites in (("plain", [SITE]), ("prompt-lookup", [])):
        engine = make_engine(model, kind)
        made[kind] = engine.generate(["abc abc", "xy"], stopping=rules, sites=sites)
        save_generations(run, engine, made[kind])
    states = torch.cat([one.states(SITE) for one in made["plain"]])
    sae = make_sae(name, d_in=states.shape[1], d_sae=48, k=k)
    run = open_run(tmp_path / "r.h5")
    for _ in range(2):  # writing again replaces
        assert add_trace_firing(run, SITE, sae, name="small") == ["plain"]
    assert add_trace_firing(run, "layers.0.resid_post", sae, name="small") == []
    wide = make_sae("topk", d_in=states.shape[1] + 1, d_sae=8, k=2)
    assert add_trace_firing(run, SITE, wide, name="wide") == []
    with torch.inference_mode():
        dense = sae.encode(states)
    with run.reading() as file:
        group = subgroup(file, "trace/plain/features/small")
        latents, values = array(group, "latents"), array(group, "values")
        assert group.attrs["site"] == SITE
        assert "features" not in subgroup(file, "trace/prompt-lookup")
    assert latents.shape == (len(states), STRONGEST)
    for row, (mine, strength) in enumerate(zip(latents, values, strict=True)):
        active = mine >= 0
        assert active.sum() == min(int((dense[row] != 0).sum()), STRONGEST)
        np.testing.assert_allclose(strength[active], dense[row][mine[active]], rtol=1e-6)
        largest = np.sort(np.abs(dense[row].numpy()))[::-1][:STRONGEST]
        np.testing.assert_allclose(np.abs(strength), largest, rtol=1e-6)
    assert (values < 0).any() == (name == "omp")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_codes_are_negative_where_the_module_says_so(name: str) -> None:
    """Odds that omp's 2,000 signs agree by chance: below 1 in 2^1000."""
    k = {} if name in {"relu", "gated"} else {"k": 4}
    rows = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    sae = make_sae(name, d_in=8, d_sae=32, **k)
    with torch.inference_mode():
        trained, read = sae.train()(rows).codes, sae.eval().encode(rows)
    for codes in (as_dense(trained), read):
        assert codes.any()
        assert (codes < 0).any() == (name == "omp")
