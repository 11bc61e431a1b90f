"""Mixture-of-experts layers of an opened model: router, experts, shared expert, and one expert's maps.

transformers 5 keeps the routed experts of a layer as fused 3-D parameters of one module; layouts differ
(gate and up concatenated or interleaved, outputs first or last, with or without biases). This file
alone knows them. Axes: t token, a active slot, e expert, d model, f hidden neuron of an expert.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from ..probes.model import Model
from ..probes.structure import family_of
from .errors import NoExpertsError, UnknownExpertError

SHARED = -1
"""Number of a layer's shared expert, as in the official code's command line."""

Expert = tuple[int, int]
"""(layer, expert); layers count from 0, dense ones included; expert -1 is the shared expert."""

SHARED_NAMES = ("shared_expert", "shared_experts")


@dataclass(frozen=True)
class MoeLayer:
    """One mixture-of-experts layer."""

    index: int
    """Number among all layers, dense ones included."""
    block: nn.Module
    router: nn.Module
    experts: Any
    """The fused routed experts."""
    shared: Any
    """The shared expert's gated MLP, or None."""
    shared_gate: nn.Module | None
    """Map to the logit of the shared expert's sigmoid gate (Qwen2-MoE), or None."""

    @property
    def n_experts(self) -> int:
        """Routed experts."""
        return self.experts.down_proj.shape[0]

    @property
    def n_active(self) -> int:
        """Experts a token is sent to."""
        return int(self.router.top_k)  # type: ignore[arg-type]

    @property
    def down(self) -> Float[Tensor, "experts d_model hidden"]:
        """Down projections of the routed experts, a view, outputs first."""
        weight = self.experts.down_proj
        return weight.transpose(1, 2) if _flag(self.experts, "is_transposed") else weight

    def down_of(self, expert: int) -> Float[Tensor, "d_model hidden"]:
        """Down projection of one expert (-1: the shared one), a view."""
        return self.shared.down_proj.weight if expert == SHARED else self.down[expert]

    def matrices_of(self, expert: int) -> list[Float[Tensor, "outputs inputs"]]:
        """All weight matrices of one expert (-1: the shared one), views, outputs first."""
        if expert == SHARED:
            return [p.weight for p in self.shared.children() if isinstance(p, nn.Linear)]
        gated = _flag(self.experts, "has_gate", default=True)
        up = getattr(self.experts, "gate_up_proj" if gated else "up_proj")[expert]
        return [up.T if _flag(self.experts, "is_transposed") else up, self.down_of(expert)]

    def describe(self, expert: int) -> str:
        """A name such as "layer 3 expert 82"."""
        return f"layer {self.index} " + (
            "shared expert" if expert == SHARED else f"expert {expert}"
        )


def moe_layers(model: Model) -> list[MoeLayer]:
    """Mixture-of-experts layers of a model, in order.

    Raises:
        NoExpertsError: The model is dense.
    """
    family = family_of(model.module)
    found: list[MoeLayer] = []
    if family is not None:
        for index, layer in enumerate(model.module.get_submodule(family.layers).children()):
            block = _part(layer, family.block)
            experts, router = _part(layer, family.experts), _part(layer, family.router)
            if block is None or router is None or not hasattr(experts, "down_proj"):
                continue
            shared = next((s for n in SHARED_NAMES if (s := _part(block, n)) is not None), None)
            found.append(
                MoeLayer(index, block, router, experts, shared, _part(block, "shared_expert_gate"))
            )
    if not found:
        raise NoExpertsError(
            f"{model.name} must have mixture-of-experts layers; {type(model.module).__name__} is "
            f"dense: {model.n_layers} layers, none with routed experts. Carve experts out of it "
            "first: fluoroscope moe carve."
        )
    return found


def layer_of(layers: Iterable[MoeLayer], expert: Expert) -> MoeLayer:
    """The layer an expert stands in.

    Raises:
        UnknownExpertError: The layer is dense, absent, or has no such expert.
    """
    by_index = {layer.index: layer for layer in layers}
    layer, number = by_index.get(expert[0]), expert[1]
    if layer is None:
        raise UnknownExpertError(
            f"Layer {expert[0]} has no experts; the layers that have are "
            f"{_ranges(sorted(by_index))}."
        )
    if number == SHARED and layer.shared is not None:
        return layer
    if not 0 <= number < layer.n_experts:
        shared = "and a shared one (-1)" if layer.shared is not None else "and no shared one"
        raise UnknownExpertError(
            f"Layer {layer.index} has no expert {number}: it has experts 0-{layer.n_experts - 1} "
            f"{shared}."
        )
    return layer


def run_expert(
    experts: Any, expert: int, rows: Float[Tensor, "rows d_model"]
) -> tuple[Float[Tensor, "rows hidden"], Float[Tensor, "rows d_model"]]:
    """One expert on some rows, before the gate weight.

    Returns:
        The input of the down projection, and the output.
    """
    transposed, biased = _flag(experts, "is_transposed"), _flag(experts, "has_bias")
    gated = _flag(experts, "has_gate", default=True)
    name = "gate_up_proj" if gated else "up_proj"
    up = _map(rows, getattr(experts, name)[expert], transposed=transposed)
    if biased:
        up = up + getattr(experts, f"{name}_bias")[expert]
    hidden = experts._apply_gate(up) if gated else experts.act_fn(up)
    out = _map(hidden, experts.down_proj[expert], transposed=transposed)
    if biased:
        out = out + experts.down_proj_bias[expert]
    if _flag(experts, "has_post_expert_norm"):
        out = experts.post_expert_norm(out)
    return hidden, out


def _map(rows: Tensor, weight: Tensor, *, transposed: bool) -> Tensor:
    return rows @ weight if transposed else linear(rows, weight)


def _flag(experts: Any, name: str, *, default: bool = False) -> bool:
    return bool(getattr(experts, name, default))


def _part(module: nn.Module, path: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _ranges(numbers: list[int]) -> str:
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(map(str, numbers))
