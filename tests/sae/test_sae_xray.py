import torch

from fluoroscope.probes import Model, Run
from fluoroscope.sae import make_sae
from fluoroscope.sae.features.cards import CardOptions
from fluoroscope.sae.heldout import EvaluateOptions
from fluoroscope.sae.xray import dictionary_readings

from .features.conftest import SITE, rows, tiny_run  # noqa: F401


def test_readings_by_site_and_dictionary(
    tiny_run: Run,  # noqa: F811
    rows: torch.Tensor,  # noqa: F811
    tiny_llama: Model,
) -> None:
    made = {}
    for name, site, width in (
        ("topk", SITE, 32), ("mp", SITE, 32), ("elsewhere", "layers.9.mlp.out", 32),
        ("narrow", SITE, 8),
    ):  # fmt: skip
        sae = make_sae("mp" if name == "mp" else "topk", d_in=width, d_sae=48, k=4)
        if width == 32:
            sae.initialise(rows)
        sae.metadata["site"] = site
        made[name] = sae
    found = dictionary_readings(
        tiny_llama,
        tiny_run,
        made,
        options=EvaluateOptions(n_loss_tokens=100),
        cards=CardOptions(n_features=1),
    )
    assert set(found) == {
        "sae_comparison", "sae_features_topk", "sae_features_mp", "sae_paths_mp",
    }  # fmt: skip
    assert dictionary_readings(tiny_llama, tiny_run, {}) == {}
