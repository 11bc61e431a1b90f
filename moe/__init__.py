"""Experts: routing, super experts, pruning, rounding, carving, and MoE-X.

Importing the room lets transformers' auto classes know "moex". The comparison of MoE-X with its rivals
is in `moe.moex.comparison`, which needs the package chess for the task of that name.
"""

from .ablate import ablate_experts, load_pruned, save_pruned, zero_experts
from .carve import Carved, CarveOptions, active_experts, carve
from .confirm import Agnosticism, Confirmation, confirm_experts, data_agnosticism
from .criterion import CriterionOptions, FewExpertsWarning, formation_layers, select_super
from .effects import PruningEffects, pruning_effects, sink_decay
from .errors import NoExpertsError, UnknownExpertError
from .identity import check_identity
from .layers import MoeLayer, moe_layers
from .moex.config import MoexConfig
from .moex.network import MoexForCausalLM
from .moex.upcycle import UpcycleOptions, upcycle
from .profile import profile_experts, profile_padded
from .quantise import QuantisationEffects, quantisation_effects, quantised_experts
from .result import ExpertProfile
from .routing import Routing, as_logits, watch_routing
from .statistics import ExpertStatistics, expert_statistics
from .xray import expert_readings

__all__ = [
    "Agnosticism",
    "CarveOptions",
    "Carved",
    "Confirmation",
    "CriterionOptions",
    "ExpertProfile",
    "ExpertStatistics",
    "FewExpertsWarning",
    "MoeLayer",
    "MoexConfig",
    "MoexForCausalLM",
    "NoExpertsError",
    "PruningEffects",
    "QuantisationEffects",
    "Routing",
    "UnknownExpertError",
    "UpcycleOptions",
    "ablate_experts",
    "active_experts",
    "as_logits",
    "carve",
    "check_identity",
    "confirm_experts",
    "data_agnosticism",
    "expert_readings",
    "expert_statistics",
    "formation_layers",
    "load_pruned",
    "moe_layers",
    "profile_experts",
    "profile_padded",
    "pruning_effects",
    "quantisation_effects",
    "quantised_experts",
    "save_pruned",
    "select_super",
    "sink_decay",
    "upcycle",
    "watch_routing",
    "zero_experts",
]
