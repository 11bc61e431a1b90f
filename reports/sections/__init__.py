"""One renderer per result kind."""

from ..section import Renderer
from .dictionaries import sae_comparison
from .experts import expert_effects, expert_profile
from .features import sae_features, sae_paths
from .joint import sae_joint
from .layers import layer_stats, next_token, self_check
from .lens import lens
from .massive import ablation_story, massive_activations
from .probes import linear_probe
from .sinks import attention_sinks
from .synthetic import sae_synthetic

RENDERERS: dict[str, Renderer] = {
    "next_token": next_token,
    "logit_lens": lens,
    "tuned_lens": lens,
    "layer_stats": layer_stats,
    "massive_activations": massive_activations,
    "ablation_story": ablation_story,
    "attention_sinks": attention_sinks,
    "linear_probe": linear_probe,
    "expert_profile": expert_profile,
    "expert_effects": expert_effects,
    "sae_comparison": sae_comparison,
    "sae_features": sae_features,
    "sae_joint": sae_joint,
    "sae_paths": sae_paths,
    "sae_synthetic": sae_synthetic,
    "self_check": self_check,
}
"""Renderer by result kind; other kinds get the generic one."""

ADDED_BY = {
    "next_token": "fluoroscope xray",
    "logit_lens": "fluoroscope lens RUN",
    "tuned_lens": "fluoroscope lens RUN --tuned",
    "layer_stats": "fluoroscope xray",
    "massive_activations": "fluoroscope xray",
    "ablation_story": "fluoroscope xray",
    "attention_sinks": "fluoroscope xray",
    "linear_probe": "fluoroscope probe RUN",
    "expert_profile": "fluoroscope moe profile",
    "expert_effects": "fluoroscope moe prune",
    "sae_comparison": "fluoroscope sae eval RUN --sae FOLDER",
    "sae_features": "fluoroscope sae features RUN --sae FOLDER",
}
"""Which command adds a kind of result."""

__all__ = ["ADDED_BY", "RENDERERS"]
