"""What a layer-wise profile found, as it stands in a run file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...probes.results import Result, described


@dataclass(frozen=True, kw_only=True)
class LayerProfile(Result):
    """Effective features of several sites through dictionaries trained alike."""

    kind: ClassVar[str] = "superposition_layers"
    sites: np.ndarray = described("site", axes=("sites",))
    width: np.ndarray = described("dimensions of the site", axes=("sites",))
    n_rows: np.ndarray = described("rows read", axes=("sites",), unit="tokens")
    n_dropped: np.ndarray = described("rows left out for their norm", axes=("sites",))
    scale: np.ndarray = described("what activations were multiplied by", axes=("sites",))
    features: np.ndarray = described(
        "effective features F = exp(entropy of activation mass)", axes=("sites",)
    )
    features_low: np.ndarray = described("lower bound of F, 95 %", axes=("sites",))
    features_high: np.ndarray = described("upper bound of F, 95 %", axes=("sites",))
    bias: np.ndarray = described("estimated bias of F; negative is too low", axes=("sites",))
    psi: np.ndarray = described("F over the width; not calibrated", axes=("sites",))
    place: np.ndarray = described(
        "place by F from 1; 0 where F(n) still rises and no place is given", axes=("sites",)
    )
    rise: np.ndarray = described(
        "relative rise of F over the last doubling of documents", axes=("sites",)
    )
    alive: np.ndarray = described("latents that fired at all (Hill order 0)", axes=("sites",))
    participation: np.ndarray = described("participation ratio (Hill order 2)", axes=("sites",))
    entropy_bits: np.ndarray = described("entropy of the shares", axes=("sites",), unit="bits")
    fvu: np.ndarray = described("variance the dictionary leaves unexplained", axes=("sites",))
    l0: np.ndarray = described("latents active per row", axes=("sites",))
    matched: np.ndarray = described(
        "F at the FVU common to all sites; NaN where no dictionary is near", axes=("sites",)
    )
    two_nn: np.ndarray = described("intrinsic dimension by two neighbours", axes=("sites",))
    two_nn_low: np.ndarray = described("lower bound, 95 %", axes=("sites",))
    two_nn_high: np.ndarray = described("upper bound, 95 %", axes=("sites",))
    linear_dimension: np.ndarray = described(
        "participation ratio of the covariance", axes=("sites",)
    )
    curve_documents: np.ndarray = described("documents read", axes=("sizes",))
    curve: np.ndarray = described("F on so many documents", axes=("sites", "sizes"))
    shares: np.ndarray = described("largest budget shares, descending", axes=("sites", "ranks"))
    n_documents: int = described("documents read")
    n_latents: int = described("latents of each dictionary")
    l1: float = described("penalty, for rows of mean square norm 1")
    n_steps: int = described("training steps of each dictionary")
    match_fvu: float = described("FVU at which `matched` is given; NaN where not asked for")
    caveat: str = described("what to know before reading the numbers")
