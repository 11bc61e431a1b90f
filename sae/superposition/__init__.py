"""How many features a layer carries: superposition as lossy compression (arXiv 2512.13568)."""

from .convergence import Curve, Ranking, feature_curve, rank
from .dimension import IntrinsicDimension, participation_ratio, two_nn
from .entropy import CAVEAT, EffectiveFeatures, budget_shares, effective_features, hill_number
from .errors import BadCodesError, NotConvergedError
from .experiment import Experiment
from .intervals import Interval, document_bootstrap, paired_ratio
from .layers import LayerOptions, layer_superposition
from .profile import LayerProfile
from .tied import TiedOptions, TiedSAEs, train_tied
from .usage import DocumentUsage, UsageAccumulator
from .xray import superposition_readings

__all__ = [
    "CAVEAT",
    "BadCodesError",
    "Curve",
    "DocumentUsage",
    "EffectiveFeatures",
    "Experiment",
    "Interval",
    "IntrinsicDimension",
    "LayerOptions",
    "LayerProfile",
    "NotConvergedError",
    "Ranking",
    "TiedOptions",
    "TiedSAEs",
    "UsageAccumulator",
    "budget_shares",
    "document_bootstrap",
    "effective_features",
    "feature_curve",
    "hill_number",
    "layer_superposition",
    "paired_ratio",
    "participation_ratio",
    "rank",
    "superposition_readings",
    "train_tied",
    "two_nn",
]
