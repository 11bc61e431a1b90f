"""Seeing: open a model, name its sites, capture, store, probe."""

from .batching import Window
from .capture import Capture, capture
from .capture_corpus import capture_corpus
from .corpus import Corpus, Document, from_texts, open_corpus
from .intervene import intervene
from .model import Model, ModelInfo
from .modelcache import CachedModel, list_cached
from .open import open_model, wrap_model
from .results import Result
from .rows import Mask, Positions
from .runfile import Provenance, Run, create_run, open_run
from .selfcheck import SelfCheck, check_sites
from .sites import Site, SiteMap

__all__ = [
    "CachedModel",
    "Capture",
    "Corpus",
    "Document",
    "Mask",
    "Model",
    "ModelInfo",
    "Positions",
    "Provenance",
    "Result",
    "Run",
    "SelfCheck",
    "Site",
    "SiteMap",
    "Window",
    "capture",
    "capture_corpus",
    "check_sites",
    "create_run",
    "from_texts",
    "intervene",
    "list_cached",
    "open_corpus",
    "open_model",
    "open_run",
    "wrap_model",
]
