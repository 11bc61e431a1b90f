"""`fluoroscope information`: what states hold of the tokens to come, and why drafting works."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from ..running import Terminal
from . import options

Tokens = Annotated[
    int | None,
    typer.Option("--tokens", "-n", min=1024, help="Tokens to use; left out: all of the run."),
]
Futures = Annotated[
    int, typer.Option("--futures", "-k", min=2, max=9, help="Tokens looked ahead, W_0 to W_8.")
]
Depths = Annotated[int, typer.Option(min=1, max=8, help="Depths of the draft at the last layer.")]
ClassesOption = Annotated[
    int, typer.Option("--classes", min=2, help="Classes of tokens: the most frequent and the rest.")
]
MinSteps = Annotated[
    int,
    typer.Option(
        "--min-steps", min=0, help="Training steps of each readout, at least; rows are passed over "
        "twice, or oftener where they are too few for so many.",
    ),
]  # fmt: skip
Source = Annotated[
    float | None,
    typer.Option(help="Entropy of the texts' source in nats per token, where it is known."),
]
Again = Annotated[bool, typer.Option("--again", help="Compute results anew that are there.")]


def information(
    terminal: Terminal,
    *,
    run: options.RunFile,
    tokens: Tokens = None,
    sites: options.Sites = None,
    futures: Futures = 4,
    depths: Depths = 3,
    classes: ClassesOption = 1024,
    min_steps: MinSteps = 150,
    source_entropy: Source = None,
    model: options.Model = None,
    device: options.Device = None,
    again: Again = False,
    dry_run: options.DryRun = False,
) -> dict[str, Any]:
    """Measure what a run's states hold of the tokens to come (arXiv 2507.19247).

    Takes the loss apart (entropy, calibration, information), measures every captured layer's usable
    information about W_0, W_1, ... and what it adds once W_0 is known, trains a draft head on each
    and counts what the model would accept, and looks at the geometry of the unembedding. The run must
    hold the last layer; the same command picks up after Ctrl-C with what is missing, finished layers
    included.

    Example: fluoroscope information out/run.h5

    Example: fluoroscope information out/run.h5 --tokens 50000 -s layers.12.resid_post
    """
    from ..probes import open_model, open_run
    from ..probes.information.flow_options import FlowOptions
    from ..probes.information.flow_parts import drop_parts
    from ..probes.information.reading import RESULTS, information_readings, whole_windows
    from ..probes.information.readout import ReadoutOptions

    opened = open_run(run)
    chosen = FlowOptions(
        n_futures=futures, depths=min(depths, futures - 1), n_classes=classes,
        probe=ReadoutOptions(min_steps=min_steps),
        head=ReadoutOptions(rank=256, interacts=True, min_steps=min_steps),
    )  # fmt: skip
    loaded = open_model(model, device=device)
    opened.require(weights_digest=loaded.weights_digest, tokenizer_digest=loaded.tokenizer_digest)
    wanted = _expanded(opened.sites, sites)
    if dry_run:
        return _plan(terminal, loaded, whole_windows(opened, tokens), len(wanted), chosen)
    if again:
        drop_parts(opened)
    done: list[str] = []
    with terminal.track("Information", "units", in_parts=True) as progress:
        readings = information_readings(
            loaded, opened, n_tokens=tokens, sites=wanted, options=chosen,
            source_entropy=source_entropy, again=again, keep=True, progress=progress,
        )  # fmt: skip
        for name, found in readings:
            opened.add_result(name, found)
            done.append(name)
    drop_parts(opened)
    kept = [name for name in RESULTS if name not in done]
    if kept:
        terminal.say(f"Kept from before: {', '.join(kept)}; --again computes them anew.")
    if RESULTS[-1] in kept:
        terminal.warnings += _differing(opened, chosen, wanted, loaded.d_vocab)
    terminal.wrote(run)
    return {"computed": done} | _shown(terminal, opened)


def _expanded(held: tuple[str, ...], sites: list[str] | None) -> list[str]:
    """Sites of the run that the globs name; a name that matches nothing is left for the error."""
    from fnmatch import fnmatchcase

    if not sites:
        return list(held)
    found = [name for name in held if any(fnmatchcase(name, glob) for glob in sites)]
    return found or list(sites)


def _differing(run: Any, chosen: Any, sites: list[str], d_vocab: int) -> list[str]:
    """Where a flow that was kept is not the one that was asked for."""
    from ..probes.information.flow_result import InformationFlow, by_layer

    flow = run.result("information_flow", InformationFlow)
    pairs = {
        "tokens looked ahead": (flow.futures.shape[1], chosen.n_futures),
        "classes": (flow.n_classes, min(chosen.n_classes, d_vocab)),
        "layers": (len(flow.layers), len(by_layer(sites))),
    }
    return [
        f"The run holds an information flow of {held} {what}, not {asked}; --again measures it anew."
        for what, (held, asked) in pairs.items()
        if held != asked
    ]


def _shown(terminal: Terminal, run: Any) -> dict[str, Any]:
    from ..probes.information.alignment_result import SpectralAlignment
    from ..probes.information.flow_result import InformationFlow
    from ..probes.information.geometry_result import HeadGeometry
    from ..probes.information.loss import LossDecomposition

    loss = run.result("information_loss", LossDecomposition)
    flow = run.result("information_flow", InformationFlow)
    head = run.result("information_geometry", HeadGeometry)
    likeness = run.result("information_alignment", SpectralAlignment)
    table = Table(
        "layer", "I(H; W0) nats", "surplus nats", "additive nats", "accepted", title="Information"
    )
    columns = (flow.futures[:, 0], flow.surplus, flow.additive, flow.acceptance)
    for row, layer in enumerate(flow.layers):
        table.add_row(str(layer), *(_interval(*column[row]) for column in columns))
    terminal.show(table)
    for line in flow.verdicts:
        terminal.show(str(line))
    for line in flow.refusals:
        terminal.warnings.append(str(line))
    terminal.show(
        f"Loss {loss.loss:.3f} = entropy {loss.entropy[0]:.3f} + gap {loss.gap:+.3f} nats; effective "
        f"rank of the head {head.rank_mean:.1f}"
    )
    return {
        "loss": loss.loss,
        "entropy": loss.entropy[0].item(),
        "gap": [loss.gap, loss.gap_low, loss.gap_high],
        "layers": flow.layers.tolist(),
        "futures": flow.futures[:, :, 0].tolist(),
        "surplus": flow.surplus[:, 0].tolist(),
        "additive": flow.additive[:, 0].tolist(),
        "acceptance": flow.acceptance[:, 0].tolist(),
        "rank_correlation": _number(flow.rank_correlation),
        "effective_rank": head.rank_mean,
        "alignment": dict(zip(likeness.variants.tolist(), likeness.cca.tolist(), strict=True)),
        "alignment_one_sided": None
        if likeness.one_sided is None
        else dict(zip(likeness.variants.tolist(), likeness.one_sided.tolist(), strict=True)),
        "verdicts": flow.verdicts.tolist(),
        "refusals": flow.refusals.tolist(),
    }


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value else None


def _plan(
    terminal: Terminal, model: Any, n_tokens: int, n_layers: int, chosen: Any
) -> dict[str, Any]:
    """What would be read and trained; the pass over the vocabulary is timed on a few rows."""
    import time

    import torch

    from ..planning import Planned, show_plan
    from ..probes.information.entropy import categorical_entropies

    rows = torch.randn(128, model.d_model, dtype=model.dtype, device=model.device)
    with torch.no_grad():
        started = time.perf_counter()
        categorical_entropies(model.unembed(rows).float())
        seconds = (time.perf_counter() - started) / len(rows)
    steps = [
        Planned(
            step="predictions and their entropies", work=f"{n_tokens:,} tokens",
            n_bytes=n_tokens * 44, seconds=n_tokens * seconds,
        ),
        Planned(
            step="readouts", work=f"{n_layers} layers, {3 * n_layers + 2 * chosen.depths} readouts",
            n_bytes=0, seconds=0.0,
        ),
    ]  # fmt: skip
    return show_plan(terminal, steps, note="Readouts are not timed here.")
