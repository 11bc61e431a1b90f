"""`fluoroscope superposition layers`: how many features each layer of a model carries."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from ..running import Terminal
from . import options, superposition

Rows = Annotated[int, typer.Option("--tokens", "-n", min=64, help="Tokens of each site to use.")]
Expansion = Annotated[float, typer.Option(min=0.01, help="Latents over the site's width.")]
LayerSteps = Annotated[int, typer.Option("--steps", min=1, help="Steps of each dictionary.")]
LayerPenalty = Annotated[
    float, typer.Option("--l1", min=0, help="Penalty, for rows of mean square norm 1.")
]
Every = Annotated[int, typer.Option(min=1, help="Without --sites: every how many layers.")]
Match = Annotated[
    float | None,
    typer.Option(
        help="Also compare layers at this FVU, through three dictionaries each (three times the work)."
    ),
]


def layers(
    terminal: Terminal,
    *,
    run: options.RunFile,
    sites: options.Sites = None,
    every: Every = 3,
    tokens: Rows = 16_384,
    expansion: Expansion = 2.0,
    l1: LayerPenalty = 0.1,
    steps: LayerSteps = 400,
    match_fvu: Match = None,
    report: superposition.Report = None,
    again: superposition.Again = False,
) -> dict[str, Any]:
    """Count effective features layer by layer, through dictionaries trained alike; no model is needed.

    Ctrl-C keeps the layers that are done; the same command picks up there.

    Example: fluoroscope superposition layers run.h5

    Example: fluoroscope superposition layers run.h5 --match-fvu 0.2 -s 'layers.*.mlp.out'
    """
    from fnmatch import fnmatch

    from ..probes import open_run
    from ..sae.superposition.journal import Journal
    from ..sae.superposition.layers import LayerOptions, layer_superposition

    opened = open_run(run)
    chosen = LayerOptions(
        expansion=expansion, l1=l1, n_steps=steps, max_rows=tokens, match_fvu=match_fvu
    )
    wanted = [name for name in opened.sites if any(fnmatch(name, s) for s in sites or ())]
    wanted += [s for s in sites or () if "*" not in s and s not in wanted]
    names = wanted if sites else _by_layer(opened.sites)[::every]
    journal = Journal(superposition.journals(run), "layers", chosen)
    superposition.begin(terminal, journal, again=again)
    with terminal.track("Layers", "thousandths") as progress:
        found = layer_superposition(opened, names, chosen, journal=journal, progress=progress)
    opened.add_result("superposition_layers", found)
    journal.remove()
    terminal.wrote(run)
    table = Table(
        "site", "F", "95 %", "psi", "place", "FVU", "L0", "alive", "TwoNN", "linear dim.",
        title="Effective features, dictionaries trained alike",
    )  # fmt: skip
    for i, site in enumerate(found.sites):
        table.add_row(
            str(site), f"{found.features[i]:.0f}",
            f"{found.features_low[i]:.0f}-{found.features_high[i]:.0f}", f"{found.psi[i]:.2f}",
            str(found.place[i]) if found.place[i] else f"rises {found.rise[i]:+.1%}",
            f"{found.fvu[i]:.3f}", f"{found.l0[i]:.0f}", f"{found.alive[i]:.0f}",
            f"{found.two_nn[i]:.1f}", f"{found.linear_dimension[i]:.1f}",
        )  # fmt: skip
    terminal.show(table)
    terminal.show(found.caveat)
    superposition.page(terminal, run, report)
    return {
        "result": "superposition_layers",
        "caveat": found.caveat,
        "sites": found.sites.tolist(),
        **{
            name: superposition.plain(getattr(found, name))
            for name in ("features", "features_low", "features_high", "psi", "place", "rise", "fvu",
                         "l0", "alive", "matched", "two_nn", "linear_dimension")
        },
    }  # fmt: skip


def _by_layer(sites: tuple[str, ...]) -> list[str]:
    held = [site for site in sites if site.endswith(".resid_post")]
    return sorted(held, key=lambda site: int(site.split(".")[1])) or list(sites)
