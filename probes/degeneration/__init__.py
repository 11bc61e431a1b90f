"""Attention degeneration (arXiv 2304.04052): how a continuation loses sight of its source."""

from .options import DegenerationOptions
from .result import AttentionDegeneration, attention_degeneration

__all__ = ["AttentionDegeneration", "DegenerationOptions", "attention_degeneration"]
