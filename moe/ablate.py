"""Taking experts out: as a context manager, and as a saved model.

mode       what the chosen experts' tokens get
"zero"     the expert keeps its slot and adds nothing; gate weights stay (what the paper calls pruning)
"renorm"   the same, and the token's other gate weights grow so that their sum is what it was
"reroute"  the expert cannot be chosen; the router decides among the others

Only "zero" is the paper's (arXiv 2507.23279); the three give different numbers. Masking a gate weight
with zero, zeroing the expert's down projection and zeroing its output agree bit for bit. A shared
expert has no slot, so every mode zeroes its output.

"reroute" gives the expert the lowest logit its type holds and, where a router chooses by scores with a
correction added (DeepSeek-V3), the lowest correction, so that no bias brings it back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..probes.errors import DamagedModelError, OptionError
from ..probes.experts import route_again
from ..probes.model import Model
from ..probes.open import open_model
from .layers import SHARED, Expert, MoeLayer, layer_of, moe_layers
from .saving import require_new, save_model

Mode = Literal["zero", "renorm", "reroute"]

CORRECTION = "e_score_correction_bias"
"""What transformers calls the correction that DeepSeek-V3's router adds before it chooses."""
RECORD = "fluoroscope_ablation"
"""Entry of config.json that names the mode and the experts of a saved model."""


@contextmanager
def ablate_experts(
    model: Model, experts: Sequence[Expert], *, mode: Mode = "zero"
) -> Iterator[None]:
    """Take experts out while the block lasts; the model is as before afterwards.

    Args:
        model: A mixture-of-experts model.
        experts: (layer, expert) pairs; expert -1 is the layer's shared expert.
        mode: What their tokens get instead.

    Raises:
        NoExpertsError: The model is dense.
        UnknownExpertError: There is no such expert.
        OptionError: "reroute" would leave a layer fewer experts than a token is sent to.
    """
    _require_mode(mode)
    removers = _install(model, experts, mode)
    try:
        yield
    finally:
        for remove in removers:
            remove()


def _install(model: Model, experts: Sequence[Expert], mode: Mode) -> list[Callable[[], None]]:
    """Put the hooks in, once all that was asked for is known to be there; returns their removers."""
    layers = moe_layers(model)
    chosen: dict[int, list[int]] = defaultdict(list)
    for expert in experts:
        layer_of(layers, expert)
        chosen[expert[0]].append(expert[1])
    if mode == "reroute":
        for layer in layers:
            _require_enough(layer, chosen[layer.index])
    removers: list[Callable[[], None]] = []
    for layer in layers:
        routed = sorted(set(chosen[layer.index]) - {SHARED})
        if SHARED in chosen[layer.index]:
            removers.append(layer.shared.register_forward_hook(_nothing).remove)
        if routed:
            after = _rerouting(routed) if mode == "reroute" else _masking(routed, mode)
            removers.append(layer.router.register_forward_hook(after).remove)
    return removers


@torch.no_grad()
def zero_experts(model: Model, experts: Sequence[Expert]) -> None:
    """Zero the experts' down projections (and their biases) in place, for good.

    Raises:
        NoExpertsError: The model is dense.
        UnknownExpertError: There is no such expert.
    """
    layers = moe_layers(model)
    found = [(layer_of(layers, expert), expert[1]) for expert in experts]
    for layer, number in found:
        layer.down_of(number).zero_()
        if number != SHARED and getattr(layer.experts, "has_bias", False):
            layer.experts.down_proj_bias[number].zero_()


def save_pruned(
    model: Model, experts: Sequence[Expert], folder: str | Path, *, mode: Mode = "zero"
) -> Path:
    """Save the model without some experts; the model in hand stays as it is.

    Their down projections are saved as zeros, so that `from_pretrained` loads mode "zero" anywhere. No
    standard architecture has a place for renormalised gates or for experts that may not be chosen:
    those modes are noted in config.json, under `fluoroscope_ablation`, and `load_pruned` sets them up;
    any other reader of such a folder gets mode "zero".

    Raises:
        RunExistsError: The folder exists and holds something.
        UnknownExpertError: There is no such expert.
        OptionError: "reroute" would leave a layer fewer experts than a token is sent to.
    """
    _require_mode(mode)
    folder = require_new(folder)
    with ablate_experts(model, experts, mode=mode):
        pass  # refuses what cannot be, before anything is written
    layers = moe_layers(model)
    kept = [(layer_of(layers, e), e[1]) for e in experts]
    weights = [layer.down_of(number).detach().clone() for layer, number in kept]
    biases = [
        layer.experts.down_proj_bias[number].detach().clone()
        if number != SHARED and getattr(layer.experts, "has_bias", False)
        else None
        for layer, number in kept
    ]
    config = model.module.config
    try:
        zero_experts(model, experts)
        if mode != "zero":
            setattr(config, RECORD, {"mode": mode, "experts": [list(e) for e in experts]})
        save_model(model, folder)
    finally:
        if hasattr(config, RECORD):
            delattr(config, RECORD)
        with torch.no_grad():
            for (layer, number), weight, bias in zip(kept, weights, biases, strict=True):
                layer.down_of(number).copy_(weight)
                if bias is not None:
                    layer.experts.down_proj_bias[number].copy_(bias)
    return folder


def load_pruned(folder: str | Path, **options: Any) -> Model:
    """Open a model that `save_pruned` wrote, in the mode it was saved in.

    Args:
        folder: Where it is.
        options: Passed on to `open_model`.

    Raises:
        DamagedModelError: Its note in config.json names another mode or no experts.
        UnknownExpertError: The note names an expert that the model lacks.
    """
    model = open_model(folder, **options)
    record = getattr(model.module.config, RECORD, None)
    if record is None:
        return model
    try:
        mode, experts = record["mode"], [(int(layer), int(e)) for layer, e in record["experts"]]
        _require_mode(mode)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedModelError(
            f"{RECORD} in config.json of {Path(folder).name} must name a mode and experts, got "
            f"{record!r}; save the pruned model again."
        ) from error
    _install(model, experts, mode)
    return model


def _require_mode(mode: str) -> None:
    if mode not in ("zero", "renorm", "reroute"):
        raise OptionError(f"mode must be 'zero', 'renorm' or 'reroute', got {mode!r}.")


def _nothing(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _masking(experts: list[int], mode: Mode) -> Callable[..., Any]:
    def after(module: nn.Module, args: Any, output: Any) -> Any:
        logits, weights, ids = output
        out = torch.isin(ids, torch.tensor(experts, device=ids.device))
        masked = weights.masked_fill(out, 0.0)
        if mode == "renorm":
            left, whole = masked.sum(-1, keepdim=True), weights.sum(-1, keepdim=True)
            masked = torch.where(left > 0, masked * (whole / left.clamp(min=1e-30)), masked)
        return logits, masked, ids

    return after


def _rerouting(experts: list[int]) -> Callable[..., Any]:
    def after(module: nn.Module, args: Any, output: Any) -> Any:
        lowered = output[0].clone()
        lowered[:, experts] = torch.finfo(lowered.dtype).min / 2
        with _correction_lowered(module, experts):
            return route_again(module, lowered)

    return after


@contextmanager
def _correction_lowered(router: Any, experts: list[int]) -> Iterator[None]:
    """Take the experts out of a router that chooses by scores plus a correction, if it is one."""
    held = getattr(router, CORRECTION, None)
    if held is None:
        yield
        return
    lowered = held.clone()
    lowered[experts] = torch.finfo(held.dtype).min / 4  # the best two of a group are added up
    try:
        setattr(router, CORRECTION, lowered)
        yield
    finally:
        setattr(router, CORRECTION, held)


def _require_enough(layer: MoeLayer, experts: list[int]) -> None:
    left = layer.n_experts - len(set(experts) - {SHARED})
    if left < layer.n_active:
        raise OptionError(
            f"mode='reroute' must leave layer {layer.index} at least {layer.n_active} experts, the "
            f"number a token is sent to; {left} would be left. Use mode='zero'."
        )
