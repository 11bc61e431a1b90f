"""Readings: what captured states say (lenses, massive activations, sinks, probes, loss)."""

from .ablation import AblationStory, ablation_story
from .layer_stats import LayerStats, layer_stats
from .lens import Lens, TunedLensReading, logit_lens, translated_lens
from .linear_probe import LinearProbe, linear_probe
from .loss import NextToken, next_token
from .massive import MassiveActivations, find_massive
from .sinks import AttentionSinks, attention_sinks
from .texts import Texts, texts_of, varied_texts
from .tuned_lens import TunedLens, TunedLensOptions, train_tuned_lens

__all__ = [
    "AblationStory",
    "AttentionSinks",
    "LayerStats",
    "Lens",
    "LinearProbe",
    "MassiveActivations",
    "NextToken",
    "Texts",
    "TunedLens",
    "TunedLensOptions",
    "TunedLensReading",
    "ablation_story",
    "attention_sinks",
    "find_massive",
    "layer_stats",
    "linear_probe",
    "logit_lens",
    "next_token",
    "texts_of",
    "train_tuned_lens",
    "translated_lens",
    "varied_texts",
]
