"""What an X-ray of a model adds for its experts."""

from __future__ import annotations

from collections.abc import Callable

from ..probes.model import Model
from ..probes.readings import Texts
from ..probes.results import Result
from .criterion import CriterionOptions
from .effects import pruning_effects
from .errors import NoExpertsError
from .layers import moe_layers
from .profile import profile_experts

Progress = Callable[[int, int, str], None]


def expert_readings(
    model: Model,
    texts: Texts,
    options: CriterionOptions | None = None,
    *,
    n_random: int = 2,
    progress: Progress | None = None,
) -> dict[str, Result]:
    """Results for a run file, by name: the profile and, where experts are super, what they hold up.

    Empty for a dense model.
    """
    try:
        moe_layers(model)
    except NoExpertsError:
        return {}
    profile = profile_experts(model, texts, options, progress=progress)
    found: dict[str, Result] = {"expert_profile": profile}
    if profile.super_experts:
        found["expert_effects"] = pruning_effects(
            model, texts, profile.super_experts, n_random=n_random, progress=progress
        )
    return found
