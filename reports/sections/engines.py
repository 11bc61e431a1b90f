"""All traced engines side by side: what each made of the same prompts."""

from __future__ import annotations

from collections.abc import Mapping

import h5py

from ...probes.runfile.h5 import array
from ..figure import Figure
from ..section import Section, Tile
from ..tokens import label


def engines(groups: Mapping[str, h5py.Group]) -> Section:
    """Table of engines; ratios are to plain decoding where that was traced too."""
    rates: dict[str, float] = {}
    table: dict[str, list[float | str]] = {
        "engine": [], "tokens": [], "tokens per target pass": [], "drafted": [], "accepted": [],
        "acceptance rate": [], "tokens per second": [], "ratio to plain": [],
    }  # fmt: skip
    for name, group in groups.items():
        n_tokens = len(array(group, "tokens/id"))
        rates[name] = n_tokens / max(float(array(group, "generations/seconds").sum()), 1e-9)
    for name, group in groups.items():
        n_tokens = len(array(group, "tokens/id"))
        drafted = int(array(group, "steps/n_drafted").sum())
        accepted = int(array(group, "steps/n_accepted").sum())
        table["engine"].append(label(name, longest=40))
        table["tokens"].append(n_tokens)
        passes = max(int(array(group, "generations/n_forward").sum()), 1)
        table["tokens per target pass"].append(round(n_tokens / passes, 2))
        table["drafted"].append(drafted)
        table["accepted"].append(accepted)
        table["acceptance rate"].append(round(accepted / drafted, 3) if drafted else "")
        table["tokens per second"].append(round(rates[name], 1))
        ratio = round(rates[name] / rates["plain"], 2) if "plain" in rates else ""
        table["ratio to plain"].append(ratio)
    deepest = max(range(len(groups)), key=lambda row: table["tokens per target pass"][row])
    most = table["tokens per target pass"][deepest]
    reading = f"Most tokens per target pass: {table['engine'][deepest]}, {most}."
    return Section(
        id="engines",
        title="Engines compared",
        chapter="Decode trace",
        intro="One run each, traced; seconds on a busy machine are no benchmark. An X-ray verifies "
        "drafts whole; by default engines cut them to what pays (option thrifty).",
        figures=(
            Figure(
                id="engines-table",
                question="What did each engine make of the same prompts?",
                reading=reading,
                data=table,
                source="/trace",
            ),
        ),
        tiles=(
            Tile(
                label="tokens per target pass",
                value=str(most),
                meaning=f"Emitted per forward pass of the target by {table['engine'][deepest]}.",
                href="#engines-table",
            ),
        ),
        verdict=f"{len(groups)} engines decoded the same prompts. {reading}",
    )
