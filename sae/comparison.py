"""What `evaluate` finds: several dictionaries at one site, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..probes.results import Result, described


@dataclass(frozen=True, kw_only=True)
class SaeComparison(Result):
    """Several dictionaries at one site, on the same rows."""

    kind: ClassVar[str] = "sae_comparison"
    site: str = described("site whose rows are rebuilt")
    conditions: np.ndarray = described("dictionary", axes=("dictionaries",))
    architecture: np.ndarray = described(
        "its architecture, or what baseline", axes=("dictionaries",)
    )
    trained_here: np.ndarray = described(
        "whether its own record says it was trained on rows measured here", axes=("dictionaries",)
    )
    d_sae: np.ndarray = described("latents", axes=("dictionaries",))
    l0: np.ndarray = described("mean firing latents per row", axes=("dictionaries",))
    l0_std: np.ndarray = described("their standard deviation over rows", axes=("dictionaries",))
    fvu: np.ndarray = described("fraction of variance unexplained", axes=("dictionaries",))
    fvu_low: np.ndarray = described("lower 95 % bound over documents", axes=("dictionaries",))
    fvu_high: np.ndarray = described("upper bound", axes=("dictionaries",))
    fvu_all: np.ndarray = described(
        "the same with special, first and very long rows", axes=("dictionaries",)
    )
    nmse: np.ndarray = described("squared error over squared norm", axes=("dictionaries",))
    cosine: np.ndarray = described("mean cosine to the row", axes=("dictionaries",))
    norm_ratio: np.ndarray = described("mean length over mean length", axes=("dictionaries",))
    relative_bias: np.ndarray = described("1 is unbiased, less too short", axes=("dictionaries",))
    n_dead: np.ndarray = described("latents silent on all rows", axes=("dictionaries",))
    n_frequent: np.ndarray = described("latents on more than 1 %", axes=("dictionaries",))
    n_dense: np.ndarray = described("latents on more than 10 %", axes=("dictionaries",))
    density_counts: np.ndarray = described(
        "latents by log10 of their density", axes=("dictionaries", "bins")
    )
    density_edges: np.ndarray = described("edges of the bins", axes=("edges",))
    max_cosine: np.ndarray = described(
        "median over latents of the largest cosine to another", axes=("dictionaries",)
    )
    encoder_cosine: np.ndarray = described(
        "mean cosine of encoder and decoder; NaN without encoder", axes=("dictionaries",)
    )
    mean_cosine: np.ndarray = described("mean absolute cosine, all pairs", axes=("dictionaries",))
    coactive_cosine: np.ndarray = described(
        "the same over pairs that fire together", axes=("dictionaries",)
    )
    babel: np.ndarray = described("Babel function", axes=("dictionaries", "sizes"))
    babel_coactive: np.ndarray = described(
        "mean over rows, of the atoms each uses", axes=("dictionaries", "sizes")
    )
    effective_rank: np.ndarray = described("of co-activation", axes=("dictionaries",))
    n_rows: int = described("rows measured")
    n_documents: int = described("documents they are from")
    n_long: int = described("rows left out because they are too long", default=0)
    loss: np.ndarray = described("next-token loss, spliced", axes=("dictionaries",), unit="nats")
    delta_loss: np.ndarray = described("its rise", axes=("dictionaries",), unit="nats")
    delta_low: np.ndarray = described("lower bound", axes=("dictionaries",), unit="nats")
    delta_high: np.ndarray = described("upper bound", axes=("dictionaries",), unit="nats")
    kl: np.ndarray = described("KL from the clean model", axes=("dictionaries",), unit="nats")
    ce_score: np.ndarray = described("recovered of zero ablation", axes=("dictionaries",))
    ce_score_mean: np.ndarray = described("recovered of mean ablation", axes=("dictionaries",))
    kl_score: np.ndarray = described("of zero ablation", axes=("dictionaries",))
    clean_loss: float = described("loss of the model as it is; NaN: not measured", unit="nats")
    zero_loss: float = described("loss with the site zeroed", unit="nats")
    mean_loss: float = described("loss with the site's mean put in", unit="nats")
    n_loss_tokens: int = described("predictions per condition")
    probe_label: str = described("labels of the sparse probes; empty: none")
    classes: np.ndarray = described("classes probed, one against the rest", axes=("classes",))
    probe_sizes: np.ndarray = described("latents a probe may use", axes=("probe_sizes",))
    probe_accuracy: np.ndarray = described(
        "test accuracy, classes balanced", axes=("dictionaries", "classes", "probe_sizes")
    )
    probe_baseline: np.ndarray = described(
        "the same with channels of the activations", axes=("classes", "probe_sizes")
    )
    probe_full: np.ndarray = described("test accuracy with all channels", axes=("classes",))
