"""One table per architecture family: which module a site is.

A model family in one table: say where the decoder layers, the embedding and the final norm are, and
where inside a layer each site's value passes. `Place("self_attn")` is the output of that module
(path from the layer); `Place("mlp.down_proj", "input")` its input. A place whose path does not exist
in a layer is no site there, so one table serves hybrids and models with some dense layers. Add the
table to `FAMILIES`, a tiny config to `tests/families.py`, and the battery in
`tests/probes/test_sites.py` checks every identity.
"""

from .dense import DENSE
from .family import Family, Place
from .hybrid import HYBRID
from .moe import MOE

FAMILIES: dict[str, Family] = {
    model_type: family for family in (*DENSE, *MOE, *HYBRID) for model_type in family.model_types
}
"""Tables by `config.model_type`."""

__all__ = ["FAMILIES", "Family", "Place"]
