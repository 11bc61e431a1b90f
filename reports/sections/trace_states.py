"""What a run file can say of states in a trace, and which command adds what it lacks."""

from __future__ import annotations

from typing import Any

import h5py

from ...probes.runfile.h5 import array, members, subgroup
from ..tokens import label


def surplus_by_layer(file: h5py.File) -> dict[str, Any] | None:
    """Usable I(H; W_1 | W_0) by layer with its bounds, where information was measured.

    A property of the text that was read, not of one position; the viewer says so.
    """
    for name in members(file, "results"):
        group = subgroup(file, f"results/{name}")
        if group.attrs.get("kind") == "information_flow" and "surplus" in group:
            value, low, high = array(group, "surplus").T
            return {
                "layers": array(group, "layers").tolist(),
                "value": value.tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
                "result": name,
            }
    return None


def missing_states(engine: str, group: h5py.Group, run: str) -> dict[str, str]:
    """Commands that add what the pane of states has no data for, by what they add."""
    found = {}
    if "rows" not in group:
        found["norms and lens"] = (
            f"fluoroscope decode --engine {label(engine, longest=40)} --prompt TEXT "
            f"--sites 'layers.*.resid_post' -o {run}"
        )
    if "features" not in group:
        held = members(group, "states")
        needs = "" if held else " (after decoding with --sites)"
        found["features that fire"] = f"fluoroscope sae features {run} --sae FOLDER{needs}"
    if surplus_by_layer(group.file) is None:
        found["surplus by layer"] = f"fluoroscope information {run}"
    return found
