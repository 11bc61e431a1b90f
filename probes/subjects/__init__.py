"""One decoder for many subjects (MindBridge, arXiv 2404.07850): voxels, and models as subjects."""

from .bridge import Bridge, BridgeOptions
from .comparison import SubjectsComparison, compare_subjects
from .data import Subject, standardise
from .training import BridgeTraining, reset_tune, train_bridge
from .voxels import VoxelOptions, voxel_subjects

__all__ = [
    "Bridge",
    "BridgeOptions",
    "BridgeTraining",
    "Subject",
    "SubjectsComparison",
    "VoxelOptions",
    "compare_subjects",
    "reset_tune",
    "standardise",
    "train_bridge",
    "voxel_subjects",
]
