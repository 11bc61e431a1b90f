"""Backends: the same sites, the same values, whoever drives the model."""

import pytest
import torch
from transformers import FalconForCausalLM

from fluoroscope.probes import Model, backends, capture, open_model
from fluoroscope.probes.backends import _with_bridge_patterns, drive
from fluoroscope.probes.errors import UnknownSiteError
from fluoroscope.probes.model import Backend
from fluoroscope.probes.structure import build_sites
from tests.families import tiny_module

TOLERANCE: dict[Backend, float] = {"nnsight": 0.0, "transformer_lens": 1e-4}
"""float32, of each site's largest value. nnsight runs the same code: bit for bit. The bridge runs eager
attention and norms of its own."""


def largest_difference(ours: Model, theirs: Model, names: tuple[str, ...], text: str) -> dict:
    """By site: the largest difference, as a share of the site's largest value."""
    ids = ours.encode(text)[None]
    with torch.no_grad(), capture(ours, *names) as left, capture(theirs, *names) as right:
        ours(ids)
        theirs(ids)
    return {
        name: float((left[name] - right[name]).abs().max() / left[name].abs().max())
        for name in names
    }


@pytest.mark.embedded
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", list(TOLERANCE))
def test_backends_give_the_same_values_at_a_cut_of_the_sites(embedded, backend: Backend) -> None:
    other = open_model(backend=backend)
    assert other.sites.names == embedded.sites.names
    names = tuple(name for name in embedded.sites.names if ".11." in name or "layers" not in name)
    found = largest_difference(embedded, other, names, "Summer is warm. Winter is cold.")
    assert {kind.split(".")[-1] for kind in names} >= {"resid_post", "pattern", "hidden", "logits"}
    assert max(found.values()) <= TOLERANCE[backend], max(found.items(), key=lambda item: item[1])


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", list(TOLERANCE))
def test_backends_give_the_same_values_at_every_site(embedded, backend: Backend) -> None:
    other = open_model(backend=backend)
    text = "def area(width, height):\n    return width * height\n\nOnce upon a time there was " * 4
    found = largest_difference(embedded, other, embedded.sites.names, text)
    assert len(found) == len(embedded.sites) > 200
    assert max(found.values()) <= TOLERANCE[backend], max(found.items(), key=lambda item: item[1])


def test_an_error_inside_a_backend_is_not_taken_for_an_unknown_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(module: object, tokenizer: object) -> object:
        return {}["a name of the backend's own"]

    monkeypatch.setitem(backends._NATIVE, "nnsight", broken)
    origin = {"name": "m", "weights_digest": None, "licence": None}
    with pytest.raises(KeyError, match="a name of the backend's own"):
        drive(tiny_module("llama"), None, backend="nnsight", **origin)


def test_the_bridges_sites_keep_what_the_family_said() -> None:
    """Reasons for missing sites and the first hidden state pass on; patterns move to its hook point."""
    module = tiny_module("falcon")
    assert isinstance(module, FalconForCausalLM)
    for layer in module.transformer.h:
        layer.self_attention.hook_pattern = torch.nn.Identity()
    plain = build_sites(module)
    bridged = _with_bridge_patterns(plain, module)
    assert bridged.names == plain.names
    assert bridged.n_layers == plain.n_layers
    assert bridged.first_hidden_state == plain.first_hidden_state
    hook_point = module.transformer.h[1].self_attention.hook_pattern
    assert bridged["layers.1.attn.pattern"].port.module is hook_point  # type: ignore[attr-defined]
    with pytest.raises(UnknownSiteError, match="read the same stream in parallel"):
        _ = bridged["layers.0.resid_mid"]
