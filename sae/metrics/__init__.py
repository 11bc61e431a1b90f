"""What a dictionary is worth: reconstruction, activity, fidelity, geometry, probing, absorption."""

from .absorption import absorbed_cosine, absorption_scores
from .activity import Activity, ActivityStats
from .baselines import PrincipalComponents, RandomDecoder
from .dictionary import Dictionary, atoms_of, rebuild, sparse_codes
from .fidelity import Fidelity, FidelityTable, fidelity, splice
from .geometry import (
    babel,
    coactive_babel,
    coactive_cosine,
    effective_rank,
    encoder_decoder_cosines,
    gram_errors,
    level_cosines,
    max_cosines,
    mean_cosine,
    supports,
)
from .matching import Detection, Matching, Stability, detection, match, seed_stability
from .reconstruction import Reconstruction, ReconstructionStats, fvu
from .sparse_probing import SparseProbe, sparse_probe

__all__ = [
    "Activity",
    "ActivityStats",
    "Detection",
    "Dictionary",
    "Fidelity",
    "FidelityTable",
    "Matching",
    "PrincipalComponents",
    "RandomDecoder",
    "Reconstruction",
    "ReconstructionStats",
    "SparseProbe",
    "Stability",
    "absorbed_cosine",
    "absorption_scores",
    "atoms_of",
    "babel",
    "coactive_babel",
    "coactive_cosine",
    "detection",
    "effective_rank",
    "encoder_decoder_cosines",
    "fidelity",
    "fvu",
    "gram_errors",
    "level_cosines",
    "match",
    "max_cosines",
    "mean_cosine",
    "rebuild",
    "seed_stability",
    "sparse_codes",
    "sparse_probe",
    "splice",
    "supports",
]
