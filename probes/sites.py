"""Sites: places in a model, named the same in every architecture.

    embed                         output of the token embedding
    layers.N.resid_pre            residual stream entering block N
    layers.N.attn.out             what attention adds to it (after any post-norm)
    layers.N.mixer.out            the same of a mixer that is no attention (Mamba, short convolution)
    layers.N.attn.pattern         attention probabilities, (batch, heads, query, key)
    layers.N.resid_mid            residual stream between the halves; parallel blocks have none
    layers.N.mlp.hidden           input of the MLP's down projection
    layers.N.mlp.out              what the MLP or the experts add (after any post-norm)
    layers.N.router.logits        (batch, positions, experts)
    layers.N.experts.out          un-weighted, (batch, positions, active, d_model), best gate first
    layers.N.resid_post           residual stream leaving block N
    final_norm, logits            the model's last norm, and what it returns

In sequential blocks resid_mid = resid_pre + attn.out and resid_post = resid_mid + mlp.out; in
parallel blocks resid_post = resid_pre + attn.out + mlp.out. The self-check tests these identities.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel

from .attention import PatternPort, dispatches
from .errors import UnknownSiteError
from .experts import ExpertsPort, RouterPort
from .families import Family, Place
from .inline_attention import InlinePatternPort, attends_inline
from .ports import ModulePort, Port, Visit

LAYER_KINDS = (
    "resid_pre",
    "attn.pattern",
    "attn.out",
    "mixer.out",
    "resid_mid",
    "router.logits",
    "experts.out",
    "mlp.hidden",
    "mlp.out",
    "resid_post",
)
"""Kinds of site inside a layer, in the order a forward pass reaches them."""

AXES = {
    "attn.pattern": ("batch", "heads", "query", "key"),
    "router.logits": ("batch", "positions", "experts"),
    "experts.out": ("batch", "positions", "active", "d_model"),
    "mlp.hidden": ("batch", "positions", "d_mlp"),
    "logits": ("batch", "positions", "d_vocab"),
}
"""Axes of the kinds that are not (batch, positions, d_model)."""


class StopForward(BaseException):
    """Ends a forward pass early; no `except Exception` may swallow it, so it is a BaseException."""


@dataclass(frozen=True)
class Site:
    """One place in one model."""

    name: str
    """Full name, such as "layers.3.resid_post"."""
    kind: str
    """Name without the layer, such as "resid_post"."""
    layer: int | None
    """Layer number; None outside the layers."""
    port: Port = field(repr=False, compare=False)
    """How to get at the value."""
    width: int | None = None
    """Size of the last axis, where the model's shape gives it."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the value's axes, outermost first."""
        return AXES.get(self.kind, ("batch", "positions", "d_model"))

    def attach(self, visit: Visit, *, first: bool = False) -> Callable[[], None]:
        """Let `visit` see the value on every forward pass; a tensor it returns replaces it.

        Args:
            visit: Called with the value, axes as in `axes`.
            first: Whether it runs before plain reads, whenever those were attached.

        Returns:
            A function that detaches `visit`; calling it twice does no harm.
        """
        return self.port.attach(visit, first=first)


class SiteMap:
    """The sites of one model, by name.

    Args:
        sites: In the order a forward pass reaches them.
        n_layers: How many layers the model has.
        first_hidden_state: Which block's input the model's own `hidden_states[0]` is.
        why_missing: Reasons for kinds that the model lacks, for error messages.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        *,
        n_layers: int,
        first_hidden_state: int = 0,
        why_missing: dict[str, str] | None = None,
    ) -> None:
        self._sites = {site.name: site for site in sites}
        self.why_missing = why_missing or {}
        self.n_layers, self.first_hidden_state = n_layers, first_hidden_state

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in forward order."""
        return tuple(self._sites)

    def __getitem__(self, name: str) -> Site:
        if name in self._sites:
            return self._sites[name]
        raise self._unknown(name)

    def __contains__(self, name: object) -> bool:
        return name in self._sites

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites.values())

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        return f"SiteMap({len(self)} sites in {self.n_layers} layers: {', '.join(self.kinds)})"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which kinds of site the model has."""
        return tuple(dict.fromkeys(site.kind for site in self))

    def resolve(self, patterns: str | Iterable[str]) -> tuple[Site, ...]:
        """The sites that names or globs select, each once, in forward order.

        Args:
            patterns: Names or globs such as "layers.*.resid_post" or "layers.1[0-9].mlp.*".

        Raises:
            UnknownSiteError: A pattern selects nothing; near matches are named.
        """
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        chosen: set[str] = set()
        for pattern in patterns:
            matches = fnmatch.filter(self._sites, pattern)
            if not matches:
                raise self._unknown(pattern)
            chosen.update(matches)
        return tuple(site for site in self if site.name in chosen)

    def _unknown(self, asked: str) -> UnknownSiteError:
        message = f"Unknown site {asked!r}: "
        reasons = [why for kind, why in self.why_missing.items() if asked.endswith(kind)]
        if reasons:
            message += f"{reasons[0]} "
        else:
            message += f"this model has {self.n_layers} layers (0-{self.n_layers - 1}). "
        near = difflib.get_close_matches(asked, self._sites, n=3, cutoff=0.5)
        if near:
            message += f"Did you mean: {', '.join(near)}? "
        return UnknownSiteError(message + f"Kinds of site here: {', '.join(self.kinds)}.")


def map_sites(module: PreTrainedModel, family: Family) -> SiteMap:
    """The sites of `module` as `family`'s table says.

    Args:
        module: A causal language model.
        family: Its family's table.

    Raises:
        AttributeError: The table names a layer list, embedding or norm that is not there.
    """
    layers = module.get_submodule(family.layers)
    assert isinstance(layers, nn.ModuleList)
    embedding, final_norm = map(module.get_submodule, (family.embed, family.final_norm))
    d_model = _width(final_norm) or module.config.get_text_config().hidden_size
    sites = [Site("embed", "embed", None, ModulePort(embedding, "output"), _width(embedding))]
    missing = family.missing(module.config.get_text_config())
    for number, layer in enumerate(layers):
        ports = {kind: port for kind, port in _ports(layer, family).items() if kind not in missing}
        for kind in LAYER_KINDS:
            if kind in ports:
                width = _site_width(kind, ports[kind], d_model)
                sites.append(Site(f"layers.{number}.{kind}", kind, number, ports[kind], width))
    unembedding = module.get_output_embeddings()
    d_vocab = unembedding.weight.shape[0] if unembedding is not None else None
    sites.append(Site("final_norm", "final_norm", None, ModulePort(final_norm, "output"), d_model))
    sites.append(Site("logits", "logits", None, ModulePort(module, "output", "logits"), d_vocab))
    why = {
        kind: f"{kind} does not exist in this variant of {family.name}: attention and MLP read the "
        "same stream in parallel."
        for kind in missing
    }
    if not any(site.kind == "attn.pattern" for site in sites):
        why["attn.pattern"] = (
            f"attention of {type(module).__name__} runs neither through transformers' dispatcher nor "
            "through torch's scaled dot-product attention, where its probabilities could be read."
        )
    return SiteMap(
        sites,
        n_layers=len(layers),
        first_hidden_state=family.first_hidden_state,
        why_missing=why,
    )


def _ports(layer: nn.Module, family: Family) -> dict[str, Port]:
    ports: dict[str, Port] = {
        "resid_pre": ModulePort(layer, "input"),
        "resid_post": ModulePort(layer, "output"),
    }
    for kind, place in family.places.items():
        module = _find(layer, place.path)
        if module is not None:
            ports[kind] = _module_port(layer, module, place)
    attention = _find(layer, family.attention)
    if attention is not None and dispatches(attention):
        ports["attn.pattern"] = PatternPort(attention)
    elif attention is not None and attends_inline(attention):
        ports["attn.pattern"] = InlinePatternPort(attention)
    experts, router = _find(layer, family.experts), _find(layer, family.router)
    block = _find(layer, family.block)
    if experts is not None and router is not None and block is not None:
        ports["router.logits"] = RouterPort(router, block)
        ports["experts.out"] = ExpertsPort(experts, block)
    return ports


def _module_port(layer: nn.Module, module: nn.Module, place: Place) -> ModulePort:
    around = layer if place.flat else None
    return ModulePort(module, place.side, place.pick, around=around)


def _find(layer: nn.Module, path: str) -> nn.Module | None:
    try:
        return layer.get_submodule(path)
    except AttributeError:
        return None


def _width(module: nn.Module) -> int | None:
    weight = getattr(module, "weight", None)
    return weight.shape[-1] if isinstance(weight, torch.Tensor) else None


def _site_width(kind: str, port: Port, d_model: int) -> int | None:
    if kind == "attn.pattern":
        return None
    if kind == "router.logits":
        assert isinstance(port, RouterPort)
        return _n_experts(port.module)
    if kind == "mlp.hidden":
        assert isinstance(port, ModulePort)
        return input_width(port.module)
    return d_model


def _n_experts(router: nn.Module) -> int | None:
    weight = getattr(router, "weight", None)
    return weight.shape[0] if isinstance(weight, torch.Tensor) else None


def input_width(projection: nn.Module) -> int:
    """How many inputs a projection has; GPT-2's stores its weight the other way round."""
    weight = projection.weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0] if type(projection).__name__ == "Conv1D" else weight.shape[1]
