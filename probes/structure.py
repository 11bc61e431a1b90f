"""From a module to its sites: the family's table where there is one, else the module's structure."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from .discover import discover_family
from .errors import UnsupportedArchitectureError
from .families import FAMILIES, Family
from .sites import SiteMap, map_sites


def family_of(module: PreTrainedModel) -> Family | None:
    """The table of the module's family; None where its architecture is not listed."""
    config = module.config
    return FAMILIES.get(config.model_type) or FAMILIES.get(config.get_text_config().model_type)


def build_sites(module: PreTrainedModel) -> SiteMap:
    """Find a model's sites.

    Raises:
        UnsupportedArchitectureError: No table fits and the structure gives no consistent answer.
    """
    family = family_of(module) or discover_family(module)
    layers = _find(module, family.layers)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise UnsupportedArchitectureError(
            f"The table of family {family.name!r} expects decoder layers at {family.layers!r}; "
            f"{type(module).__name__} has none there. Open the causal language model itself, not a "
            "wrapper or a headless one."
        )
    return map_sites(module, family)


def _find(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
