"""What fires at traced tokens: the strongest latents of the states that the trace holds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fluoroscope.decoding import Stopping, make_engine, save_generations
from fluoroscope.probes import Provenance, create_run, open_run, wrap_model
from fluoroscope.probes.runfile.h5 import array, subgroup
from fluoroscope.sae.architectures import make_sae
from fluoroscope.sae.features.firing import STRONGEST, add_trace_firing
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

SITE = "layers.1.resid_post"


@pytest.mark.parametrize("k", [3, 20])
def test_the_strongest_latents_stand_beside_the_states(tmp_path: Path, k: int) -> None:
    model = wrap_model(tiny_module("llama"), byte_tokenizer(), name="tiny")
    with create_run(tmp_path / "r.h5", provenance=Provenance()) as writer:
        writer.close()
    run = open_run(tmp_path / "r.h5")
    rules = Stopping(max_new_tokens=9, ignore_eos=True)
    made = {}
    for name, sites in (("plain", [SITE]), ("prompt-lookup", [])):
        engine = make_engine(model, name)
        made[name] = engine.generate(["abc abc", "xy"], stopping=rules, sites=sites)
        save_generations(run, engine, made[name])
    states = torch.cat([one.states(SITE) for one in made["plain"]])
    sae = make_sae("topk", d_in=states.shape[1], d_sae=48, k=k)
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
        assert active.sum() == min(int((dense[row] > 0).sum()), STRONGEST)
        np.testing.assert_allclose(strength[active], dense[row][mine[active]], rtol=1e-6)
        assert (np.diff(strength) <= 0).all()
        assert strength[active].max(initial=0) == pytest.approx(float(dense[row].max()), rel=1e-6)
