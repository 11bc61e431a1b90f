"""What profiling finds, as it stands in a run file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..probes.results import Result, described
from .layers import SHARED, Expert


@dataclass(frozen=True, kw_only=True)
class ExpertProfile(Result):
    """Maxima, load and co-activation of all experts, and those that are super.

    The last column of a table over experts is the layer's shared expert.
    """

    kind: ClassVar[str] = "expert_profile"
    variant: str = described("whose definition selects: the code's, the paper's, Algorithm 1's")
    quantile: float = described("percentile a maximum must exceed")
    ratio: float = described("the largest maximum divided by this is the second bound")
    rows: str = described("which rows count for maxima")
    layers: np.ndarray = described("layer of each row", axes=("layers",))
    n_layers: int = described("decoder layers of the model")
    n_experts: int = described("routed experts per layer")
    n_active: int = described("experts a token is sent to")
    has_shared: np.ndarray = described("whether the layer has a shared expert", axes=("layers",))
    maxima: np.ndarray = described(
        "largest |output| before the gate weight", axes=("layers", "experts")
    )
    n_routed: np.ndarray = described("tokens sent there", axes=("layers", "experts"))
    n_routed_first: np.ndarray = described("of those, first tokens", axes=("layers", "experts"))
    gate_mean: np.ndarray = described("mean gate weight where sent", axes=("layers", "experts"))
    coactive: np.ndarray = described(
        "tokens sent to both experts", axes=("layers", "experts", "experts")
    )
    percentile: float = described("first bound")
    fraction_of_max: float = described("second bound")
    n_population: int = described("experts compared")
    n_selectable: int = described("how many the percentile lets through at most")
    formation: np.ndarray = described("layers where massive activations form", axes=("formation",))
    resid_largest: np.ndarray = described(
        "largest |residual| after each layer, over texts", axes=("decoder layers",)
    )
    resid_median: np.ndarray = described(
        "median |residual|, mean over texts", axes=("decoder layers",)
    )
    ranked_layer: np.ndarray = described("layer, largest maximum first", axes=("ranks",))
    ranked_expert: np.ndarray = described("expert; -1 is the shared one", axes=("ranks",))
    ranked_value: np.ndarray = described("the maximum, with sign", axes=("ranks",))
    ranked_super: np.ndarray = described("whether it qualifies", axes=("ranks",))
    ranked_token: np.ndarray = described("token id it stands at", axes=("ranks",))
    ranked_position: np.ndarray = described("position in its text", axes=("ranks",))
    ranked_channel: np.ndarray = described("dimension of the residual stream", axes=("ranks",))
    ranked_gate: np.ndarray = described("gate weight there", axes=("ranks",))
    ranked_neurons: np.ndarray = described(
        "neurons of the expert that add most", axes=("ranks", "neurons")
    )
    ranked_contributions: np.ndarray = described("what each adds", axes=("ranks", "neurons"))
    ranked_weights: np.ndarray = described(
        "super weight: down[channel, neuron]", axes=("ranks", "neurons")
    )
    identity_error: float = described(
        "largest difference of gate-weighted expert outputs from the block's own output, relative"
    )
    n_texts: int = described("texts read")
    n_tokens: int = described("tokens read")

    @property
    def super_experts(self) -> list[Expert]:
        """(layer, expert) of those that qualify, largest maximum first."""
        chosen = np.flatnonzero(self.ranked_super)
        return [(int(self.ranked_layer[i]), int(self.ranked_expert[i])) for i in chosen]

    def expert_of(self, column: int) -> int:
        """Expert number of a column."""
        return SHARED if column == self.n_experts else column
