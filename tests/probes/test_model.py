"""What an opened model records about itself, and its unembedding in every family."""

import json
from pathlib import Path

import pytest
import torch

from fluoroscope.probes import capture, open_model, wrap_model
from tests.conftest import ids
from tests.families import TINY_CONFIGS, UNLISTED, tiny_module
from tests.tokenizers_ import byte_tokenizer


@pytest.mark.parametrize("family", [*TINY_CONFIGS, *UNLISTED])
def test_unembed_gives_the_models_own_logits(family: str) -> None:
    """Bit for bit: norm, unembedding, scale and soft cap are the model's."""
    model = wrap_model(tiny_module(family), check=False)
    last = f"layers.{model.n_layers - 1}.resid_post"
    with torch.no_grad(), capture(model, last) as acts:
        logits = model(ids()).logits
        assert torch.equal(model.unembed(acts[last]), logits)


@pytest.mark.parametrize(
    ("family", "option", "value"),
    [("gemma2", "final_logit_softcapping", 0.05), ("cohere", "logit_scale", 0.5)],
)
def test_unembed_follows_scale_and_cap(family: str, option: str, value: float) -> None:
    model = wrap_model(tiny_module(family, **{option: value}), check=False)
    usual = wrap_model(tiny_module(family, **{option: 4 * value}), check=False)
    last = f"layers.{model.n_layers - 1}.resid_post"
    with torch.no_grad(), capture(model, last) as acts:
        logits = model(ids()).logits
        assert torch.equal(model.unembed(acts[last]), logits)
        assert not torch.equal(usual.unembed(acts[last]), logits)


def test_what_is_recorded_names_no_local_path(tmp_path: Path) -> None:
    tiny_module("llama").save_pretrained(tmp_path / "tiny")
    byte_tokenizer().save_pretrained(tmp_path / "tiny")
    info = open_model(tmp_path / "tiny").info
    assert info.name == "tiny"
    assert str(tmp_path) not in json.dumps(info.as_dict())
