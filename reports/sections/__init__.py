"""One renderer per result kind."""

from ..section import Renderer
from .candidates import expert_agnosticism, expert_confirmation, expert_quantisation
from .compared import compared_runs
from .degeneration import attention_degeneration, source_recall
from .dictionaries import sae_comparison
from .experts import expert_profile
from .features import sae_features
from .head_geometry import alignment, geometry
from .information_flow import flow
from .information_loss import loss, predictions
from .joint import sae_joint
from .layers import layer_stats, next_token, self_check
from .lens import lens
from .massive import ablation_story, massive_activations
from .moex import moex_comparison
from .paths import sae_paths
from .probes import linear_probe
from .pruning import expert_effects
from .sinks import attention_sinks
from .subjects import subjects
from .superposition import superposition_layers
from .superposition_experiment import superposition_experiment
from .synthetic import sae_synthetic
from .training import sae_training

RENDERERS: dict[str, Renderer] = {
    "next_token": next_token,
    "logit_lens": lens,
    "tuned_lens": lens,
    "layer_stats": layer_stats,
    "massive_activations": massive_activations,
    "ablation_story": ablation_story,
    "attention_sinks": attention_sinks,
    "attention_degeneration": attention_degeneration,
    "source_recall": source_recall,
    "subjects": subjects,
    "linear_probe": linear_probe,
    "information_predictions": predictions,
    "information_loss": loss,
    "information_flow": flow,
    "information_geometry": geometry,
    "information_alignment": alignment,
    "expert_profile": expert_profile,
    "expert_effects": expert_effects,
    "compared_runs": compared_runs,
    "sae_comparison": sae_comparison,
    "sae_features": sae_features,
    "sae_joint": sae_joint,
    "sae_paths": sae_paths,
    "sae_synthetic": sae_synthetic,
    "sae_training": sae_training,
    "superposition_layers": superposition_layers,
    "superposition_experiment": superposition_experiment,
    "expert_confirmation": expert_confirmation,
    "expert_agnosticism": expert_agnosticism,
    "expert_quantisation": expert_quantisation,
    "moex_comparison": moex_comparison,
    "self_check": self_check,
}
"""Renderer by result kind; other kinds get the generic one."""

ADDED_BY = {
    "next_token": "fluoroscope xray -o RUN",
    "logit_lens": "fluoroscope lens RUN",
    "tuned_lens": "fluoroscope lens RUN --tuned",
    "layer_stats": "fluoroscope xray -o RUN",
    "massive_activations": "fluoroscope xray -o RUN",
    "ablation_story": "fluoroscope xray -o RUN",
    "attention_sinks": "fluoroscope xray -o RUN",
    "attention_degeneration": "fluoroscope attention source RUN",
    "source_recall": "fluoroscope attention constructions -o RUN",
    "subjects": "fluoroscope subjects models -o RUN",
    "linear_probe": "fluoroscope probe RUN",
    "information_predictions": "fluoroscope information RUN",
    "information_loss": "fluoroscope information RUN",
    "information_flow": "fluoroscope information RUN",
    "information_geometry": "fluoroscope information RUN",
    "information_alignment": "fluoroscope information RUN",
    "expert_profile": "fluoroscope moe profile -o RUN",
    "expert_effects": "fluoroscope moe prune -o RUN",
    "compared_runs": "fluoroscope compare RUN OTHER_RUN",
    "sae_comparison": "fluoroscope sae eval RUN --sae FOLDER",
    "sae_features": "fluoroscope sae features RUN --sae FOLDER",
    "sae_joint": "fluoroscope sae modality -o RUN",
    "sae_paths": "fluoroscope sae features RUN --sae FOLDER",
    "sae_synthetic": "fluoroscope sae synthetic -o RUN",
    "sae_training": "fluoroscope sae train RUN --site SITE",
    "superposition_layers": "fluoroscope superposition layers RUN",
    "superposition_experiment": "fluoroscope superposition toy -o RUN",
    "expert_confirmation": "fluoroscope moe profile -o RUN --confirm 5",
    "expert_agnosticism": "fluoroscope moe profile -o RUN --against OTHER_TEXT",
    "expert_quantisation": "fluoroscope moe quantise -o RUN",
    "moex_comparison": "fluoroscope moe train -o RUN",
    "self_check": "fluoroscope xray -o RUN",
}
"""Which command adds a kind of result."""

__all__ = ["ADDED_BY", "RENDERERS"]
