"""Taking apart: sparse autoencoders and superposition."""

from .architectures import ARCHITECTURES, make_sae, sae_class
from .base import SparseAutoencoder
from .batchtopk import BatchTopKOptions, BatchTopKSae
from .codes import Codes, SparseCodes, as_dense, as_sparse
from .comparison import SaeComparison
from .dictionary_learning import learn_dictionary
from .errors import ActivationsError, CheckpointError, DivergedError, SaeFileError
from .evaluate import evaluate
from .features.build import build_index
from .features.cards import CardOptions, FeatureCards, feature_cards
from .features.index import FeatureIndex
from .gated import GatedOptions, GatedSae
from .heldout import EvaluateOptions
from .jumprelu import JumpReluOptions, JumpReluSae
from .learner import Learner, LearnOptions, StepReport
from .live import LiveRows
from .matching_pursuit import PursuitPath, matching_pursuit
from .matryoshka import MatryoshkaOptions, MatryoshkaSae
from .mp import MpOptions, MpSae
from .omp import OmpOptions, OmpSae, orthogonal_matching_pursuit
from .options import SaeOptions
from .other_formats import load_any, load_dictionary_learning, load_sparsify
from .output import SaeOutput, TrainingState
from .relu import ReluOptions, ReluSae, april_update
from .result import SaeTraining
from .saelens import load_saelens, save_saelens
from .schedule import ScheduleOptions
from .session import SaeSpec, Trained, train_saes
from .sources import RowSource, RunRows, TensorRows
from .storage import load_sae, save_sae
from .stretches import BatchOutput
from .topk import TopKOptions, TopKSae
from .train import Member, Trainer
from .xray import dictionary_readings

__all__ = [
    "ARCHITECTURES",
    "ActivationsError",
    "BatchOutput",
    "BatchTopKOptions",
    "BatchTopKSae",
    "CardOptions",
    "CheckpointError",
    "Codes",
    "DivergedError",
    "EvaluateOptions",
    "FeatureCards",
    "FeatureIndex",
    "GatedOptions",
    "GatedSae",
    "JumpReluOptions",
    "JumpReluSae",
    "LearnOptions",
    "Learner",
    "LiveRows",
    "MatryoshkaOptions",
    "MatryoshkaSae",
    "Member",
    "MpOptions",
    "MpSae",
    "OmpOptions",
    "OmpSae",
    "PursuitPath",
    "ReluOptions",
    "ReluSae",
    "RowSource",
    "RunRows",
    "SaeComparison",
    "SaeFileError",
    "SaeOptions",
    "SaeOutput",
    "SaeSpec",
    "SaeTraining",
    "ScheduleOptions",
    "SparseAutoencoder",
    "SparseCodes",
    "StepReport",
    "TensorRows",
    "TopKOptions",
    "TopKSae",
    "Trained",
    "Trainer",
    "TrainingState",
    "april_update",
    "as_dense",
    "as_sparse",
    "build_index",
    "dictionary_readings",
    "evaluate",
    "feature_cards",
    "learn_dictionary",
    "load_any",
    "load_dictionary_learning",
    "load_sae",
    "load_saelens",
    "load_sparsify",
    "make_sae",
    "matching_pursuit",
    "orthogonal_matching_pursuit",
    "sae_class",
    "save_sae",
    "save_saelens",
    "train_saes",
]
