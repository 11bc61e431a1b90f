"""Values the shell completes: engines, sites, run files and what is in them; torch is never imported.

Engines are found by reading the decoding room's source for `About(name=...)`, because importing the
registry would import torch; a test compares the two. Site names are the embedded model's.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

KINDS = (
    "resid_pre",
    "attn.pattern",
    "attn.out",
    "resid_mid",
    "mlp.hidden",
    "mlp.out",
    "resid_post",
)
"""Kinds of site the embedded model has in every layer."""
ALONE = ("embed", "final_norm", "logits")
N_LAYERS = 30


def engines(incomplete: str) -> list[str]:
    """Names of registered engines that begin so."""
    spec = find_spec("fluoroscope.decoding")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = set()
    for folder in folders:
        for path in Path(folder).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            found |= set(re.findall(r"about\s*=\s*About\(\s*name=\"([\w.-]+)\"", source))
    return sorted(name for name in found if name.startswith(incomplete))


def sites(incomplete: str) -> list[str]:
    """Site names and globs that begin so: kinds first, layer numbers once `layers.` stands there."""
    globs = [f"layers.*.{kind}" for kind in KINDS]
    named = [f"layers.{layer}.{kind}" for layer in range(N_LAYERS) for kind in KINDS]
    offered = [*ALONE, *globs]
    if incomplete.startswith("layers.") and len(incomplete) > len("layers."):
        offered += named
    return [name for name in offered if name.startswith(incomplete)]


def run_files(incomplete: str) -> list[str]:
    """HDF5 files, and folders on the way to them."""
    folder = Path(incomplete).expanduser()
    base = folder if incomplete.endswith("/") or not incomplete else folder.parent
    found = []
    try:
        held = sorted(base.iterdir())
    except OSError:
        return []
    for path in held:
        if path.name.startswith(".") or not str(path).startswith(str(folder)):
            continue
        if path.is_dir() and path.suffix != ".shards":
            found.append(f"{path}/")
        elif path.suffix == ".h5":
            found.append(str(path))
    return found


def sections(ctx: Any, incomplete: str) -> list[str]:
    """Results and traces of the run file that stands on the line already."""
    run = ctx.params.get("run")
    if run is None or not Path(run).is_file():
        return []
    import h5py

    names: list[str] = []
    with h5py.File(run, "r") as file:
        for key in ("results", "trace"):
            group = file.get(key)
            names += list(group) if isinstance(group, h5py.Group) else []
    return [name for name in names if name.startswith(incomplete)]
