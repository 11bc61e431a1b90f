"""The load-time self-check: do the sites hold what their names say?

A wrong hook is the field's most common silent error. On a tiny forward pass every site must fire
exactly once with its shape; the residual stream must equal the model's own hidden states; what the
halves of a block add must add up; reading must not change a bit of the logits; zeroing a site must.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .errors import SiteCheckError
from .model import Model
from .results import Result, described
from .sites import Site, SiteMap

N_TOKENS = 6
"""Length of the probing text; what is checked does not depend on it."""
# Eager attention takes its softmax in float32 whatever the model's own precision.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest error of an identity, relative to the largest value on either side: rounding of a sum in
another order, and of an attention the model runs in another batch shape."""


@dataclass(frozen=True, kw_only=True)
class SelfCheck(Result):
    """What the self-check found."""

    kind: ClassVar[str] = "self_check"
    checks: np.ndarray = described("what was compared", axes=("checks",))
    errors: np.ndarray = described("largest relative error", axes=("checks",))
    tolerance: float = described("largest relative error allowed")
    sites: np.ndarray = described("sites that were checked", axes=("sites",))


@torch.no_grad()
def check_sites(model: Model) -> SelfCheck:
    """Check a model's sites against its own hidden states, in two short forward passes.

    Raises:
        SiteCheckError: A site does not hold what its name says; the message names it.
    """
    ids = _probing_ids(model)
    plain = model.module(ids, output_hidden_states=True, use_cache=False)
    values, logits = _read_all(model, ids)
    _require(torch.equal(logits, plain.logits), "logits", "reading the sites changes the logits")
    checks = [
        *_stream(model, values, plain.hidden_states),
        *_identities(model.sites, values),
        *_unembedding(model, values, plain.logits),
    ]
    tolerance = TOLERANCE[model.dtype]
    errors = []
    for name, left, right in checks:
        error = _relative_error(left, right)
        _require(
            error <= tolerance,
            name,
            f"differs by {error:.2g} of its size, expected at most {tolerance:.0e}",
        )
        errors.append(error)
    _liveness(model, ids, logits)
    return SelfCheck(
        checks=np.array([name for name, _, _ in checks]),
        errors=np.array(errors),
        tolerance=tolerance,
        sites=np.array(model.sites.names),
    )


Check = tuple[str, Tensor, Tensor]


def _probing_ids(model: Model) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.d_vocab, (2, N_TOKENS), generator=generator)
    return ids.to(model.device)


def _read_all(model: Model, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    values: dict[str, Tensor] = {}
    fired: dict[str, int] = {}

    def reader(site: Site) -> Callable[[Tensor], None]:
        def read(value: Tensor) -> None:
            values[site.name] = value.clone()
            fired[site.name] = fired.get(site.name, 0) + 1

        return read

    detach = [site.attach(reader(site)) for site in model.sites]
    try:
        logits = model.module(ids, use_cache=False).logits
    finally:
        for undo in detach:
            undo()
    for site in model.sites:
        times = fired.get(site.name, 0)
        _require(times == 1, site.name, f"fired {times} times in one forward pass, expected once")
        shape = tuple(values[site.name].shape)
        expected_head = (2,) if site.kind == "attn.pattern" else (2, N_TOKENS)
        _require(
            shape[: len(expected_head)] == expected_head and len(shape) == len(site.axes),
            site.name,
            f"has shape {shape}, expected axes {site.axes}",
        )
        _require(
            site.width in (None, shape[-1]), site.name, f"is {shape[-1]} wide, not {site.width}"
        )
    return values, logits


def _stream(
    model: Model, values: dict[str, Tensor], hidden_states: tuple[Tensor, ...] | None
) -> list[Check]:
    """The residual stream entering each block against the model's own hidden states.

    The last hidden state a model returns has passed the final norm, so it is compared with that.
    """
    if hidden_states is None:
        return []
    checks = []
    for number in range(model.sites.first_hidden_state, model.n_layers):
        own = hidden_states[number - model.sites.first_hidden_state]
        checks.append((f"layers.{number}.resid_pre", values[f"layers.{number}.resid_pre"], own))
        if number:
            name = f"layers.{number - 1}.resid_post"
            checks.append((name, values[name], own))
    return [*checks, ("final_norm", values["final_norm"], hidden_states[-1])]


def _identities(sites: SiteMap, values: dict[str, Tensor]) -> list[Check]:
    """What a block's halves add, against the stream before and after."""
    checks = []
    for number in range(sites.n_layers):
        got = {
            kind: values[f"layers.{number}.{kind}"]
            for kind in ("resid_pre", "attn.out", "mixer.out", "resid_mid", "mlp.out", "resid_post")
            if f"layers.{number}.{kind}" in sites
        }
        first = got.get("attn.out", got.get("mixer.out"))
        middle, mlp = got.get("resid_mid"), got.get("mlp.out")
        name = f"layers.{number}"
        if first is not None and middle is not None:
            checks.append((f"{name}.resid_mid", middle, got["resid_pre"] + first))
            if mlp is not None:
                checks.append((f"{name}.mlp.out", got["resid_post"], middle + mlp))
        elif first is not None and mlp is not None:
            checks.append((f"{name}.mlp.out", got["resid_post"], got["resid_pre"] + first + mlp))
        elif first is not None:
            checks.append((f"{name}.mixer.out", got["resid_post"], got["resid_pre"] + first))
    return checks


def _unembedding(model: Model, values: dict[str, Tensor], logits: Tensor) -> list[Check]:
    last = values[f"layers.{model.n_layers - 1}.resid_post"]
    checks = [("logits", model.unembed(last), logits)]
    for name, value in values.items():
        if name.endswith("attn.pattern"):
            sums = value.sum(-1)
            checks.append((name, sums.clamp(max=1.0), sums))
    return checks


def _liveness(model: Model, ids: Tensor, logits: Tensor) -> None:
    """Zeroing the first block's sites all at once must be felt: hooks see the tensors themselves."""
    site = model.sites[f"layers.{model.n_layers // 2}.resid_post"]
    undo = site.attach(torch.zeros_like, first=True)
    try:
        edited = model.module(ids, use_cache=False).logits
    finally:
        undo()
    _require(not torch.equal(edited, logits), site.name, "can be zeroed without changing logits")


def _relative_error(left: Tensor, right: Tensor) -> float:
    if left.shape != right.shape:
        return float("inf")
    size = max(left.abs().max().item(), right.abs().max().item(), 1e-30)
    return (left.double() - right.double()).abs().max().item() / size


def _require(holds: bool, site: str, problem: str) -> None:  # noqa: FBT001 - the claim itself
    if not holds:
        raise SiteCheckError(
            f"Self-check: {site} {problem}. The mapping of this architecture is wrong, or its code "
            "changed; nothing captured through it could be trusted. Correct the family's table in "
            "probes/families, or report the architecture and the transformers version."
        )
