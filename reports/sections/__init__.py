"""One renderer per result kind."""

from ..section import Renderer
from .experts import expert_effects, expert_profile
from .information import alignment, flow, geometry, loss, predictions
from .layers import layer_stats, next_token, self_check
from .lens import lens
from .massive import ablation_story, massive_activations
from .probes import linear_probe
from .sinks import attention_sinks

RENDERERS: dict[str, Renderer] = {
    "next_token": next_token,
    "logit_lens": lens,
    "tuned_lens": lens,
    "layer_stats": layer_stats,
    "massive_activations": massive_activations,
    "ablation_story": ablation_story,
    "attention_sinks": attention_sinks,
    "linear_probe": linear_probe,
    "information_predictions": predictions,
    "information_loss": loss,
    "information_flow": flow,
    "information_geometry": geometry,
    "information_alignment": alignment,
    "expert_profile": expert_profile,
    "expert_effects": expert_effects,
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
    "information_loss": "fluoroscope information RUN",
    "information_flow": "fluoroscope information RUN",
    "information_geometry": "fluoroscope information RUN",
    "information_alignment": "fluoroscope information RUN",
    "expert_profile": "fluoroscope moe profile",
    "expert_effects": "fluoroscope moe prune",
}
"""Which command adds a kind of result."""

__all__ = ["ADDED_BY", "RENDERERS"]
