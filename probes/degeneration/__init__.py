"""Attention degeneration (arXiv 2304.04052): how a continuation loses sight of its source."""

from .hallucination import CoOccurrence
from .invention import HallucinationRatio, hallucination_ratio
from .options import DegenerationOptions
from .result import AttentionDegeneration, attention_degeneration

__all__ = [
    "AttentionDegeneration",
    "CoOccurrence",
    "DegenerationOptions",
    "HallucinationRatio",
    "attention_degeneration",
    "hallucination_ratio",
]
