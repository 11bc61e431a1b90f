"""SAELens' on-disk format: `cfg.json` and `sae_weights.safetensors` in one folder.

BatchTopK and Matryoshka are written as JumpReLU with one threshold, as SAELens does itself; MP-SAE as
its matching pursuit; a transcoder as `transcoder` or `jumprelu_transcoder`. What the format cannot say
(OMP, rows standardised one by one, a relative tolerance, transcoders of other architectures) is
refused. On reading, TopK pre-activations that are ranked by decoder norm are folded into unit atoms,
which is the same function; activations that SAELens would still normalise are refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..probes.errors import OptionError
from ..probes.runfile.atomic import replacing
from .architectures import make_sae
from .base import SparseAutoencoder
from .batchtopk import BatchTopKSae
from .errors import SaeFileError
from .mp import MpSae

_SITES = {
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "resid_post": "resid_post",
    "mlp_out": "mlp.out",
    "attn_out": "attn.out",
}
"""Site names by what TransformerLens calls the hook."""

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

_NAMES = {"relu": "standard", "gated": "gated", "topk": "topk", "jumprelu": "jumprelu"}
_TRANSCODERS = {"relu": "transcoder", "jumprelu": "jumprelu_transcoder"}
_OURS = {theirs: ours for ours, theirs in (_NAMES | {"mp": "matching_pursuit"}).items()} | {
    theirs: ours for ours, theirs in _TRANSCODERS.items()
}


def save_saelens(sae: SparseAutoencoder, folder: str | Path) -> Path:
    """Write an autoencoder so that SAELens loads it (`SAE.load_from_disk`).

    Args:
        sae: On raw rows; its metadata's site and model go along.
        folder: Made if new.

    Raises:
        OptionError: SAELens has no such autoencoder.
    """
    if isinstance(sae, BatchTopKSae):
        sae = sae.as_jumprelu()
    config = _config_of(sae)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value.detach().cpu().contiguous() for name, value in sae.named_parameters()}
    with replacing(folder / WEIGHTS) as partial:
        save_file(kept, partial)
    with replacing(folder / CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=1))
    return folder


def load_saelens(folder: str | Path) -> SparseAutoencoder:
    """Read an autoencoder that SAELens wrote.

    Raises:
        SaeFileError: There is none, it is damaged, or of a kind that this toolkit does not have.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    weights = read_weights(folder / WEIGHTS)
    theirs = config.get("architecture", "standard")
    if theirs not in _OURS:
        raise SaeFileError(
            f"{folder.name} holds a {theirs!r} of SAELens; readable are {', '.join(_OURS)}."
        )
    normalise = config.get("normalize_activations", "none")
    if normalise != "none" or config.get("reshape_activations", "none") != "none":
        raise SaeFileError(
            f"{folder.name} normalises ({normalise}) or reshapes activations at run time; fold that "
            "in SAELens first (fold_activation_norm_scaling_factor)."
        )
    ours = _OURS[theirs]
    try:
        options = _options_of(ours, config)
        options["decoder_norm"] = _norm_policy(weights["W_dec"])
    except KeyError as error:
        raise SaeFileError(
            f"{folder.name} is no {theirs!r} of SAELens: it lacks {error}. Copy it again."
        ) from error
    if config.get("rescale_acts_by_decoder_norm"):
        weights = _folded(weights)
        options["decoder_norm"] = "unit"
    if ours == "mp" and not config.get("apply_b_dec_to_input", True):
        weights["b_dec"] = torch.zeros_like(weights["b_dec"])  # SAELens ignores it then
    if "threshold" in weights:  # SAELens rectifies besides
        weights["threshold"] = weights["threshold"].clamp_min(0)
    sae = make_sae(ours, **options)
    described = config.get("metadata", {})
    sae.metadata = {"saelens": described}
    site = site_of_hook(str(described.get("hook_name") or config.get("hook_name") or ""))
    if site is not None:
        sae.metadata["site"] = site
    return filled(sae, weights, folder.name)


def site_of_hook(hook: str) -> str | None:
    """The site that TransformerLens' name of a hook means; None where none does."""
    block = re.fullmatch(r"blocks\.(\d+)\.hook_(\w+)", hook)
    if block is not None and block[2] in _SITES:
        return f"layers.{block[1]}.{_SITES[block[2]]}"
    return hook if re.fullmatch(r"layers\.\d+\..+", hook) else None


def _config_of(sae: SparseAutoencoder) -> dict[str, Any]:
    options = sae.options
    table = _TRANSCODERS if sae.is_transcoder else _NAMES | {"mp": "matching_pursuit"}
    if sae.architecture not in table or options.input_norm != "none":
        kind = "transcoder" if sae.is_transcoder else "autoencoder"
        raise OptionError(
            f"SAELens has no {sae.architecture} {kind} with input_norm={options.input_norm!r}; "
            "`save_sae` keeps all of them."
        )
    source = sae.metadata.get("source", {})
    config: dict[str, Any] = {
        "architecture": table[sae.architecture],
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": options.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "model_name": source.get("model"),
            "hook_name": sae.metadata.get("site"),
            "trained_with": "fluoroscope",
        },
    }
    if sae.is_transcoder:
        config["d_out"] = sae.d_out
    if sae.architecture == "topk":
        config |= {"k": options.k, "rescale_acts_by_decoder_norm": False}  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(sae, MpSae):
        config |= _pursuit_config(sae)
    return config


def _pursuit_config(sae: MpSae) -> dict[str, Any]:
    own = sae.options
    if own.relative_tolerance or (not own.apply_b_dec_to_input and bool(sae.b_dec.any())):
        raise OptionError(
            "SAELens' matching pursuit has neither a relative tolerance nor a decoder bias that is "
            "not subtracted first; `save_sae` keeps both."
        )
    return {
        "residual_threshold": own.tolerance,
        "max_iterations": own.k,
        "stop_on_duplicate_support": own.stop_on_repeat,
    }


def _options_of(architecture: str, config: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "d_in": config["d_in"],
        "d_sae": config["d_sae"],
        "apply_b_dec_to_input": config.get("apply_b_dec_to_input", True),
    }
    if "transcoder" in config.get("architecture", ""):
        options |= {"d_out": config["d_out"], "apply_b_dec_to_input": False}
    if architecture == "topk":
        options["k"] = config["k"]
    if architecture == "mp":
        options |= {
            "k": config.get("max_iterations") or config["d_in"],
            "tolerance": config.get("residual_threshold", 1e-2),
            "stop_on_repeat": config.get("stop_on_duplicate_support", True),
        }
    return options


def _norm_policy(atoms: Tensor) -> str:
    off = (atoms.float().norm(dim=1) - 1).abs().max()
    return "unit" if float(off) < 1e-3 else "free"


def _folded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    norms = weights["W_dec"].norm(dim=1)
    return weights | {
        "W_enc": weights["W_enc"] * norms,
        "b_enc": weights["b_enc"] * norms,
        "W_dec": weights["W_dec"] / norms[:, None],
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        SaeFileError: There is no such file or it is no JSON object.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise SaeFileError(f"{path.parent.name} must hold {path.name}; it does not.") from error
    except ValueError as error:
        raise SaeFileError(f"{path} must be JSON: {error}") from error
    if not isinstance(found, dict):
        raise SaeFileError(f"{path} must hold a JSON object, got {type(found).__name__}.")
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, in float32.

    Raises:
        SaeFileError: There is no such file or it is damaged.
    """
    try:
        found = load_file(path)
    except FileNotFoundError as error:
        raise SaeFileError(f"{path.parent.name} must hold {path.name}; it does not.") from error
    except SafetensorError as error:
        raise SaeFileError(f"{path} is damaged: {error}. Copy it again.") from error
    return {name: value.float() for name, value in found.items()}


def filled(sae: SparseAutoencoder, weights: dict[str, Tensor], where: str) -> SparseAutoencoder:
    """An autoencoder with all its weights replaced, ready for inference.

    Args:
        sae: Of the right shape.
        weights: By our names; those it does not have are refused.
        where: What to name in messages.

    Raises:
        SaeFileError: A weight is missing, too many, or of another shape.
    """
    state = sae.state_dict()
    if sae.architecture == "mp":
        weights = {name: value for name, value in weights.items() if name in state}
    odd = sorted(state.keys() ^ weights.keys()) or sorted(
        name for name, value in weights.items() if value.shape != state[name].shape
    )
    if odd:
        raise SaeFileError(
            f"Weights in {where} do not fit a {sae.architecture} autoencoder: {', '.join(odd)}."
        )
    sae.load_state_dict(weights)
    return sae.eval()
