"""Backends: which library drives the model. Sites and their values are the same in all of them.

Both TransformerLens 4's bridge and nnsight keep the Hugging Face module: the bridge wraps its parts
in place, nnsight traces it. So the sites are ports on that one module, and they fire whichever way
the model is run: `model(ids)`, `model.native(ids)` (bridge), `model.native.trace(ids)` (nnsight).

The bridge switches attention to the eager implementation and computes some norms itself; its values
differ from plain transformers by rounding (2e-5 of the largest value in float32).
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .errors import MissingPackageError, OptionError
from .model import Backend, Model
from .ports import ModulePort
from .sites import Site, SiteMap
from .structure import build_sites


def drive(
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    backend: Backend,
    name: str,
    weights_digest: str | None,
    licence: str | None,
) -> Model:
    """Hand a loaded module to a backend.

    Raises:
        MissingPackageError: The backend's package is not installed.
        OptionError: There is no such backend.
    """
    if backend not in _NATIVE:
        raise OptionError(f"backend must be one of {', '.join(_NATIVE)}, got {backend!r}.")
    native = _NATIVE[backend](module, tokenizer)
    sites = build_sites(module)
    if backend == "transformer_lens":
        sites = _with_bridge_patterns(sites, module)
    return Model(
        module,
        tokenizer,
        sites,
        name=name,
        backend=backend,
        native=native,
        weights_digest=weights_digest,
        licence=licence,
    )


def _plain(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Any:
    return module


def _bridge(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Any:
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        raise _missing("transformer_lens", "transformer-lens") from error
    return TransformerBridge.boot_transformers(
        module.config._name_or_path,
        hf_model=module,
        tokenizer=tokenizer,
        dtype=module.dtype,
        device=str(module.device),
    )


def _nnsight(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Any:
    try:
        from nnsight import LanguageModel
    except ImportError as error:
        raise _missing("nnsight", "nnsight") from error
    return LanguageModel(module, tokenizer=tokenizer)


_NATIVE = {"transformers": _plain, "transformer_lens": _bridge, "nnsight": _nnsight}


def _missing(backend: str, extra: str) -> MissingPackageError:
    return MissingPackageError(
        f"backend {backend!r} needs a package that is not installed: "
        f"pip install 'fluoroscope[{extra}]'"
    )


def _with_bridge_patterns(sites: SiteMap, module: PreTrainedModel) -> SiteMap:
    """The bridge computes attention itself; its probabilities pass a hook point of their own."""
    family_sites = []
    for site in sites:
        if site.kind == "attn.out":
            attention = site.port.module  # type: ignore[attr-defined]
            hook_point = getattr(attention, "hook_pattern", None)
            if hook_point is not None:
                name = site.name.replace("attn.out", "attn.pattern")
                port = ModulePort(hook_point, "output")
                family_sites.append(Site(name, "attn.pattern", site.layer, port))
        if site.kind != "attn.pattern":
            family_sites.append(site)
    return SiteMap(
        family_sites,
        n_layers=sites.n_layers,
        first_hidden_state=sites.first_hidden_state,
        why_missing=sites.why_missing,
    )
