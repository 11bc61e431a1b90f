"""What a reading of information flow over a run file found: every layer, in one result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import OptionError
from ..results import Result, described

_LAYER = re.compile(r"layers\.(\d+)\.resid_post")


BOUNDS = "value_low_high"
"""Name of the last axis of every estimate: value, lower and upper 95 % bound over documents."""


@dataclass(frozen=True, kw_only=True)
class InformationFlow(Result):
    """What each layer holds of the tokens to come, and the acceptance of draft heads trained on it."""

    kind: ClassVar[str] = "information_flow"
    layers: np.ndarray = described("layer whose output is read", axes=("layers",))
    futures: np.ndarray = described(
        "E2b: usable information about W_k", axes=("layers", "futures", BOUNDS), unit="nats"
    )
    surplus: np.ndarray = described(
        "E3b: usable I(H; W_1 | W_0), draft head", axes=("layers", BOUNDS), unit="nats"
    )
    additive: np.ndarray = described(
        "E3b with an additive probe, which misses synergy", axes=("layers", BOUNDS), unit="nats"
    )
    acceptance: np.ndarray = described(
        "share of W_1 where the draft head's choice is the target's", axes=("layers", BOUNDS)
    )
    cluster_next: np.ndarray = described(
        "E3c: I(cluster; W_0), coarse classes", axes=("layers", BOUNDS), unit="nats"
    )
    cluster_surplus: np.ndarray = described(
        "E3c: I(cluster; W_1 | W_0), coarse classes", axes=("layers", BOUNDS), unit="nats"
    )
    renyi_next: np.ndarray = described(
        "E4: matrix Rényi I(H; W_0), bounds over groups", axes=("layers", BOUNDS), unit="nats"
    )
    depth: np.ndarray = described("draft depth k at the last layer", axes=("depths",))
    depth_surplus: np.ndarray = described(
        "E3b: usable I(H; W_k | W_0..W_k-1)", axes=("depths", BOUNDS), unit="nats"
    )
    depth_acceptance: np.ndarray = described(
        "share of W_k where the head's choice is the target's", axes=("depths", BOUNDS)
    )
    depth_blind: np.ndarray = described("the same of a head without H", axes=("depths", BOUNDS))
    contrastive: np.ndarray = described(
        "E5: InfoNCE I(H; W_0) at the last layer, bounds over groups", axes=(BOUNDS,), unit="nats"
    )
    contrastive_cap: float = described("what E5 cannot exceed", unit="nats")
    model_surplus: np.ndarray = described(
        "E3a: I(H; W_1 | W_0) under the model's law", axes=(BOUNDS,), unit="nats"
    )
    model_surplus_cap: float = described("log of the states mixed: E3a's cap", unit="nats")
    model_surplus_covered: float = described("mean probability of the W_0 read")
    model_surplus_missing: float = described("bound on what the others change", unit="nats")
    model_surplus_classes: int = described("classes of W_0 and W_1 in E3a")
    control_next: np.ndarray = described(
        "E2b about W_0, states of other rows", axes=(BOUNDS,), unit="nats"
    )
    control_surplus: np.ndarray = described(
        "E3b, states of other rows", axes=(BOUNDS,), unit="nats"
    )
    rank_correlation: float = described("Spearman of surplus and acceptance over layers")
    coverage: float = described("share of W_1 with a class of its own: no head accepts more")
    n_classes: int = described("classes of tokens")
    n_train: int = described("rows trained on")
    n_test: int = described("rows tested on")
    n_test_documents: int = described("source documents tested on")
    family: str = described("the predictive families, in words")
    verdicts: np.ndarray = described("where estimators disagree; controls", axes=("lines",))
    refusals: np.ndarray = described("estimators that had too little to go on", axes=("lines",))


def by_layer(sites: Sequence[str]) -> list[str]:
    """The sites of layers' outputs among some, first layer first.

    Raises:
        OptionError: There are none.
    """
    named = sorted((site for site in sites if _LAYER.fullmatch(site)), key=layer_of)
    if not named:
        raise OptionError(
            "Information flow needs rows of layers.N.resid_post, got "
            f"{', '.join(sites) or 'no sites'}. Capture with --sites 'layers.*.resid_post'."
        )
    return named


def layer_of(site: str) -> int:
    """Number of the layer whose output a site is."""
    matched = _LAYER.fullmatch(site)
    assert matched is not None
    return int(matched[1])
