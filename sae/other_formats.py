"""Autoencoders that sparsify and dictionary_learning wrote; reading only.

sparsify: `cfg.json` and `sae.safetensors` (`encoder.weight` [latents, d], `encoder.bias`, `W_dec`,
`b_dec`); TopK, or a transcoder. dictionary_learning: `config.json` and `ae.pt`, a pickle, read with
`weights_only` so that it can run no code. Its TopK keeps k per row, its BatchTopK and Matryoshka a
threshold; its L1 autoencoders divide out decoder norms on loading, which is done here as well.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .architectures import make_sae
from .base import SparseAutoencoder
from .errors import SaeFileError
from .saelens import CONFIG, filled, load_saelens, read_json, read_weights
from .storage import OPTIONS, load_sae

SPARSIFY_WEIGHTS = "sae.safetensors"
PICKLE, PICKLE_CONFIG = "ae.pt", "config.json"


def load_any(folder: str | Path) -> SparseAutoencoder:
    """Read an autoencoder in whichever format a folder holds.

    Raises:
        SaeFileError: In none of them, or damaged.
    """
    folder = Path(folder)
    if (folder / OPTIONS).is_file():
        return load_sae(folder)
    if (folder / PICKLE).is_file():
        return load_dictionary_learning(folder)
    if (folder / SPARSIFY_WEIGHTS).is_file():
        return load_sparsify(folder)
    if (folder / CONFIG).is_file():
        return load_saelens(folder)
    raise SaeFileError(
        f"{folder} must hold an autoencoder of fluoroscope ({OPTIONS}), SAELens ({CONFIG}), sparsify "
        f"({SPARSIFY_WEIGHTS}) or dictionary_learning ({PICKLE}); it holds none."
    )


def load_sparsify(folder: str | Path) -> SparseAutoencoder:
    """Read a sparsify (eai-sparsify) autoencoder or transcoder.

    Raises:
        SaeFileError: It has a skip connection or another activation than top-k, or is damaged.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    weights = read_weights(folder / SPARSIFY_WEIGHTS)
    if config.get("activation", "topk") != "topk" or config.get("skip_connection"):
        raise SaeFileError(
            f"{folder.name} uses activation {config.get('activation')!r} or a skip connection; only "
            "plain top-k is readable."
        )
    needed = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}
    missing = sorted(needed - weights.keys()) + ([] if "k" in config else ["k"])
    if missing:
        raise SaeFileError(
            f"{folder.name} is no autoencoder of sparsify: it lacks {', '.join(missing)}."
        )
    d_sae, d_in = weights["encoder.weight"].shape
    options: dict[str, Any] = {"d_in": d_in, "d_sae": d_sae, "k": config["k"]}
    options["decoder_norm"] = "unit" if config.get("normalize_decoder", True) else "free"
    if config.get("transcode"):
        options |= {"d_out": weights["W_dec"].shape[1], "apply_b_dec_to_input": False}
    named = {
        "W_enc": weights["encoder.weight"].t(),
        "b_enc": weights["encoder.bias"],
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
    }
    return filled(make_sae("topk", **options), named, folder.name)


def load_dictionary_learning(folder: str | Path) -> SparseAutoencoder:
    """Read a dictionary_learning autoencoder (`ae.pt` beside `config.json`).

    Raises:
        SaeFileError: It is of another kind, damaged, or its pickle holds more than tensors.
    """
    folder = Path(folder)
    config = read_json(folder / PICKLE_CONFIG).get("trainer", {})
    try:
        held = torch.load(folder / PICKLE, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise SaeFileError(
            f"{folder.name}/{PICKLE} is damaged or holds more than tensors ({error}); it is not read, "
            "since a pickle can run code."
        ) from error
    weights = {name: value.float() for name, value in held.items()}
    kind = str(config.get("dict_class", ""))
    readers = {
        "AutoEncoder": _l1,
        "AutoEncoderNew": _l1_april,
        "GatedAutoEncoder": _gated,
        "JumpReluAutoEncoder": _jumprelu,
        "AutoEncoderTopK": _topk,
        "BatchTopKSAE": _batch_topk,
        "MatryoshkaBatchTopKSAE": _batch_topk,
    }
    if kind not in readers:
        raise SaeFileError(
            f"{folder.name} holds a {kind!r} of dictionary_learning; readable are {', '.join(readers)}."
        )
    try:
        architecture, options, named = readers[kind](weights)
    except KeyError as error:
        raise SaeFileError(f"{folder.name} is no {kind}: it lacks the weight {error}.") from error
    d_in, d_sae = named["W_enc"].shape
    sae = make_sae(architecture, d_in=d_in, d_sae=d_sae, **options)
    return filled(sae, named, folder.name)


_Read = tuple[str, dict[str, Any], dict[str, Tensor]]


def _linear(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "W_enc": weights["encoder.weight"].t(),
        "W_dec": weights["decoder.weight"].t(),
    }


def _l1(weights: dict[str, Tensor]) -> _Read:
    named = _linear(weights)
    norms = named["W_dec"].norm(dim=1)
    return (
        "relu",
        {},
        {
            "W_enc": named["W_enc"] * norms,
            "b_enc": weights["encoder.bias"] * norms,
            "W_dec": named["W_dec"] / norms[:, None],
            "b_dec": weights["bias"],
        },
    )


def _l1_april(weights: dict[str, Tensor]) -> _Read:
    named = _linear(weights) | {"b_enc": weights["encoder.bias"], "b_dec": weights["decoder.bias"]}
    return "relu", {"decoder_norm": "free", "apply_b_dec_to_input": False}, named


def _gated(weights: dict[str, Tensor]) -> _Read:
    named = _linear(weights) | {
        "b_dec": weights["decoder_bias"],
        "b_gate": weights["gate_bias"],
        "b_mag": weights["mag_bias"],
        "r_mag": weights["r_mag"],
    }
    return "gated", {}, named


def _jumprelu(weights: dict[str, Tensor]) -> _Read:
    named = {name: weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    named["threshold"] = weights["threshold"].clamp_min(0)  # it rectifies besides
    return "jumprelu", {"apply_b_dec_to_input": False}, named


def _topk(weights: dict[str, Tensor]) -> _Read:
    named = _linear(weights) | {"b_enc": weights["encoder.bias"], "b_dec": weights["b_dec"]}
    return "topk", {"k": int(weights["k"])}, named


def _batch_topk(weights: dict[str, Tensor]) -> _Read:
    if "W_enc" in weights:
        named = {name: weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    else:
        named = _linear(weights) | {"b_enc": weights["encoder.bias"], "b_dec": weights["b_dec"]}
    named["threshold"] = weights["threshold"].double().clamp_min(0)
    named["n_thresholds"] = torch.ones((), dtype=torch.long)
    return "batchtopk", {"k": int(weights["k"])}, named
