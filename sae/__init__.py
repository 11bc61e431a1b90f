"""Taking apart: sparse autoencoders and superposition."""

from .architectures import ARCHITECTURES, make_sae, sae_class
from .base import SaeOptions, SaeOutput, SparseAutoencoder, TrainingState
from .codes import Codes, SparseCodes, as_dense, as_sparse
from .errors import ActivationsError, CheckpointError, DivergedError, SaeFileError
from .learner import Learner, LearnOptions, StepReport
from .relu import ReluOptions, ReluSae, april_update
from .schedule import ScheduleOptions
from .storage import load_sae, save_sae
from .topk import TopKOptions, TopKSae
from .train import Member, Trainer

__all__ = [
    "ARCHITECTURES",
    "ActivationsError",
    "CheckpointError",
    "Codes",
    "DivergedError",
    "LearnOptions",
    "Learner",
    "Member",
    "ReluOptions",
    "ReluSae",
    "SaeFileError",
    "SaeOptions",
    "SaeOutput",
    "ScheduleOptions",
    "SparseAutoencoder",
    "SparseCodes",
    "StepReport",
    "TopKOptions",
    "TopKSae",
    "Trainer",
    "TrainingState",
    "april_update",
    "as_dense",
    "as_sparse",
    "load_sae",
    "make_sae",
    "sae_class",
    "save_sae",
]
