"""Which features fire where: the index, and what a page says of each feature."""

from .build import build_index, kept_rows
from .index import Contexts, FeatureIndex, Firing, Strongest, find_tokens, index_path

__all__ = [
    "Contexts",
    "FeatureIndex",
    "Firing",
    "Strongest",
    "build_index",
    "find_tokens",
    "index_path",
    "kept_rows",
]
