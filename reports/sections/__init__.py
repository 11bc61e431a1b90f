"""One renderer per result kind."""

from ..section import Renderer
from .candidates import expert_agnosticism, expert_confirmation, expert_quantisation
from .experts import expert_profile
from .layers import layer_stats, next_token, self_check
from .lens import lens
from .massive import ablation_story, massive_activations
from .moex import moex_comparison
from .probes import linear_probe
from .pruning import expert_effects
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
    "expert_profile": expert_profile,
    "expert_effects": expert_effects,
    "expert_confirmation": expert_confirmation,
    "expert_agnosticism": expert_agnosticism,
    "expert_quantisation": expert_quantisation,
    "moex_comparison": moex_comparison,
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
    "expert_confirmation": "fluoroscope moe profile --confirm 5",
    "expert_agnosticism": "fluoroscope moe profile --against OTHER_TEXT",
    "expert_quantisation": "fluoroscope moe quantise",
}
"""Which command adds a kind of result."""

__all__ = ["ADDED_BY", "RENDERERS"]
