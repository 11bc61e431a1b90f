"""`fluoroscope moe profile|prune|quantise|carve`: experts found, taken out, rounded, carved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ..running import Terminal
from . import options
from .decode import open_or_make

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Run file that takes the result (made if new)."),
]
Tokens = Annotated[int, typer.Option("--tokens", "-n", min=16, help="Tokens to read.")]
Context = Annotated[int, typer.Option(min=16, help="Longest text in tokens; each begins afresh.")]
Variant = Annotated[
    Literal["code", "paper", "algorithm1"], typer.Option(help="Whose definition of super experts.")
]
Quantile = Annotated[float, typer.Option(help="Percentile a maximum must exceed.")]
Ratio = Annotated[
    float, typer.Option(help="The largest maximum divided by this is the other bound.")
]
LayerFraction = Annotated[
    float, typer.Option(help="Share of the layers, from the first, that the code's variant reads.")
]
Experts = Annotated[
    list[str] | None,
    typer.Option(
        "--expert", "-e", help="LAYER:EXPERT, -1 for shared (repeatable); left out: found."
    ),
]
Mode = Annotated[Literal["zero", "renorm", "reroute"], typer.Option(help="What takes their place.")]
Prompt = Annotated[str, typer.Option("--prompt", "-p", help="Greedy text goes on from here.")]
Draws = Annotated[int, typer.Option(min=0, help="Draws of random experts for comparison.")]
Save = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the pruned model; modes other than zero are set up by moe.load_pruned."
    ),
]
Confirm = Annotated[
    int, typer.Option(min=0, help="Take each out alone, against so many random others; 0 for none.")
]
Against = Annotated[
    list[str] | None,
    typer.Option(help="Another corpus to look for the same experts in (repeatable)."),
]
Bits = Annotated[
    list[int] | None, typer.Option("--bits", help="Bits per weight (repeatable); left out: 8 to 2.")
]
Folder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the carved model.")]
NExperts = Annotated[int, typer.Option("--experts", min=2, help="Experts per layer.")]
Active = Annotated[int | None, typer.Option(min=1, help="Experts per token; left out: all.")]
Grouping = Annotated[
    Literal["coactivation", "weights", "random"], typer.Option(help="What makes neurons alike.")
]


def profile(
    terminal: Terminal,
    *,
    model: options.Model = None,
    text: options.Text = None,
    tokens: Tokens = 4096,
    context: Context = 128,
    variant: Variant = "code",
    quantile: Quantile = 99.5,
    ratio: Ratio = 10.0,
    layer_fraction: LayerFraction = 0.75,
    confirm: Confirm = 0,
    against: Against = None,
    output: Output = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> dict[str, Any]:
    """Find super experts: those whose output dwarfs all others' (arXiv 2507.23279).

    Example: fluoroscope moe profile --model carved --confirm 5 -o moe.h5

    Example: fluoroscope moe profile --model path/to/moe --quantile 99 --against other.txt
    """
    from ..moe.confirm import confirm_experts, data_agnosticism
    from ..moe.criterion import CriterionOptions
    from ..moe.profile import profile_experts
    from ..probes import open_model

    chosen = CriterionOptions(
        variant=variant, quantile=quantile, ratio=ratio, layer_fraction=layer_fraction
    )
    opened = open_model(model, device=device, dtype=dtype)
    texts = _texts(opened, text, tokens, context)
    run = None if output is None else open_or_make(output, opened)
    results: dict[str, Any] = {}

    def keep(name: str, result: Any) -> None:
        results[name] = result
        if run is not None:
            run.add_result(name, result)

    with terminal.track("Profiling", "tokens") as progress:
        found = profile_experts(opened, texts, chosen, progress=progress)
    keep("expert_profile", found)
    if confirm and found.super_experts:
        with terminal.track("Confirming", "measurements") as progress:
            tested = confirm_experts(
                opened, texts, found.super_experts, n_random=confirm, progress=progress
            )
        keep("expert_confirmation", tested)
    if against:
        corpora = {"the text profiled": texts} | {
            Path(name).name: _texts(opened, [name], tokens, context) for name in against
        }
        with terminal.track("Other corpora", "tokens", in_parts=True) as progress:
            agreed = data_agnosticism(opened, corpora, chosen, progress=progress)
        keep("expert_agnosticism", agreed)
    if output is not None:
        terminal.wrote(output)
    table = Table("expert", "super", "largest output", "dimension", "position", "neurons")
    for i in range(min(10, len(found.ranked_value))):
        name = f"{found.ranked_layer[i]}:{found.ranked_expert[i]}"
        neurons = ", ".join(str(n) for n in found.ranked_neurons[i] if n >= 0)
        table.add_row(
            name, "yes" if found.ranked_super[i] else "", f"{found.ranked_value[i]:,.4g}",
            str(found.ranked_channel[i]), str(found.ranked_position[i]), neurons,
        )  # fmt: skip
    terminal.show(table)
    more: dict[str, Any] = {}
    if "expert_confirmation" in results:
        tested = results["expert_confirmation"]
        more["confirmed"] = tested.experts[tested.confirmed].tolist()
        terminal.show(f"Confirmed: {len(more['confirmed'])} of {len(tested.experts)}")
    if "expert_agnosticism" in results:
        agreed = results["expert_agnosticism"]
        more["on_every_corpus"] = [list(expert) for expert in agreed.everywhere]
        terminal.show(
            f"Found on all {len(agreed.corpora)} corpora: {len(agreed.everywhere)} of "
            f"{len(agreed.experts)}"
        )
    return more | {
        "super_experts": [list(expert) for expert in found.super_experts],
        "formation_layers": found.formation.tolist(),
        "percentile": found.percentile,
        "fraction_of_max": found.fraction_of_max,
        "n_selectable": found.n_selectable,
        "identity_error": found.identity_error,
    }


def prune(
    terminal: Terminal,
    *,
    model: options.Model = None,
    expert: Experts = None,
    text: options.Text = None,
    tokens: Tokens = 1024,
    context: Context = 128,
    mode: Mode = "zero",
    quantile: Quantile = 99.5,
    draws: Draws = 5,
    prompt: Prompt = "",
    save: Save = None,
    output: Output = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> dict[str, Any]:
    """Take super experts out and measure loss, repetition, massive activations and sinks.

    Example: fluoroscope moe prune --model carved -o moe.h5

    Example: fluoroscope moe prune --model path/to/moe -e 1:68 -e 2:92 --save pruned
    """
    import numpy as np

    from ..moe.ablate import save_pruned
    from ..moe.effects import pruning_effects
    from ..moe.saving import require_new
    from ..probes import open_model

    given = [_expert(name) for name in expert or ()]
    if save is not None:
        require_new(save)
    opened = open_model(model, device=device, dtype=dtype)
    texts = _texts(opened, text, tokens, context)
    run = None if output is None else open_or_make(output, opened)
    if not given:
        given = _super_experts(terminal, opened, texts, quantile, run)
    with terminal.track("Pruning", "conditions") as progress:
        effects = pruning_effects(
            opened, texts, given, mode=mode, prompt=prompt, n_random=draws, progress=progress
        )
    if run is not None:
        run.add_result("expert_effects", effects)
        terminal.wrote(str(output))
    if save is not None:
        terminal.wrote(save_pruned(opened, given, save, mode=mode))
    table = Table(
        "taken out", "loss (nats)", "perplexity", "largest activation", "attention to first token",
        "sink decay", "repetition",
    )  # fmt: skip
    decay = [float(np.nanmean(row)) if np.isfinite(row).any() else None for row in effects.decay]
    repetition = [None if value != value else float(value) for value in effects.repetition]
    for i, name in enumerate(effects.conditions):
        sinks = effects.sink_map[i]
        table.add_row(
            str(name), f"{effects.loss[i]:.3f}", f"{np.exp(effects.loss[i]):.2f}",
            f"{effects.largest[i].max():,.0f}", f"{sinks.mean():.3f}" if sinks.size else "",
            _shown(decay[i]), _shown(repetition[i]),
        )  # fmt: skip
    terminal.show(table)
    return {
        "experts": [list(e) for e in given],
        "conditions": effects.conditions.tolist(),
        "loss": effects.loss.tolist(),
        "perplexity": np.exp(effects.loss).tolist(),
        "largest": effects.largest.max(1).tolist(),
        "sink_decay": decay,
        "repetition": repetition,
    }


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def quantise(
    terminal: Terminal,
    *,
    model: options.Model = None,
    expert: Experts = None,
    bits: Bits = None,
    text: options.Text = None,
    tokens: Tokens = 1024,
    context: Context = 128,
    quantile: Quantile = 99.5,
    draws: Draws = 5,
    output: Output = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> dict[str, Any]:
    """Round super experts to fewer bits, beside random others; an experiment of our own.

    Example: fluoroscope moe quantise --model carved -o moe.h5

    Example: fluoroscope moe quantise --model path/to/moe -e 1:68 --bits 8 --bits 4
    """
    from ..moe.quantise import BITS, quantisation_effects
    from ..probes import open_model

    given = [_expert(name) for name in expert or ()]
    opened = open_model(model, device=device, dtype=dtype)
    texts = _texts(opened, text, tokens, context)
    run = None if output is None else open_or_make(output, opened)
    if not given:
        given = _super_experts(terminal, opened, texts, quantile, run)
    with terminal.track("Rounding", "measurements") as progress:
        effects = quantisation_effects(
            opened, texts, given, bits=bits or BITS, n_random=draws, progress=progress
        )
    if run is not None:
        run.add_result("expert_quantisation", effects)
        terminal.wrote(str(output))
    table = Table("bits", "loss (nats)", "loss, random others", "largest activation")
    random = [float(row.mean()) if len(row) else None for row in effects.random_loss]
    for i, width in enumerate(effects.bits):
        other = "" if random[i] is None else f"{random[i]:.3f}"
        table.add_row(str(width), f"{effects.loss[i]:.3f}", other, f"{effects.largest[i]:,.0f}")
    terminal.show(table)
    return {
        "experts": [list(e) for e in given],
        "bits": effects.bits.tolist(),
        "baseline": effects.baseline,
        "loss": effects.loss.tolist(),
        "random_loss": random,
    }


def carve(
    terminal: Terminal,
    *,
    output: Folder = Path("carved"),
    model: options.Model = None,
    experts: NExperts = 8,
    active: Active = None,
    grouping: Grouping = "coactivation",
    text: options.Text = None,
    tokens: Tokens = 1024,
    context: Context = 128,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> dict[str, Any]:
    """Carve a dense model into a mixture of experts that transformers loads.

    Example: fluoroscope moe carve -o carved

    Example: fluoroscope moe carve --experts 16 --active 8 --grouping weights -o carved16
    """
    from ..moe.carve import CarveOptions
    from ..moe.carve import carve as carve_model
    from ..moe.saving import require_new, save_model
    from ..probes import open_model
    from ..probes.readings import next_token

    chosen = CarveOptions(n_experts=experts, n_active=active, grouping=grouping, n_rows=tokens)
    require_new(output)
    opened = open_model(model, device=device, dtype=dtype)
    texts = _texts(opened, text, tokens, context)
    with terminal.track("Carving", "layers") as progress:
        made = carve_model(opened, texts, chosen, progress=progress)
    terminal.wrote(save_model(made.model, output))
    before, after = next_token(opened, texts).loss, next_token(made.model, texts).loss
    terminal.show(f"Loss on the calibration texts: {before:.4f} dense, {after:.4f} carved (nats)")
    return {"folder": str(output), "loss_dense": before, "loss_carved": after}


def _texts(opened: Any, text: list[str] | None, tokens: int, context: int) -> Any:
    from ..probes import open_corpus
    from ..probes.batching import windows
    from ..probes.readings import Texts

    limit = opened.max_positions
    found = windows(
        opened, open_corpus(text), context=context if limit is None else min(context, limit),
        n_tokens=tokens, per_document=4,
    )  # fmt: skip
    kept = [w for w in found if len(w.ids) > 1]
    return Texts(tuple(w.ids for w in kept), tuple(w.name for w in kept))


def _super_experts(
    terminal: Terminal, model: Any, texts: Any, quantile: float, run: Any
) -> list[tuple[int, int]]:
    """Those that profiling finds; the profile goes into the run file, if there is one."""
    from ..moe.criterion import CriterionOptions
    from ..moe.profile import profile_experts

    with terminal.track("Profiling", "tokens") as progress:
        found = profile_experts(
            model, texts, CriterionOptions(quantile=quantile), progress=progress
        )
    if run is not None:
        run.add_result("expert_profile", found)
    return found.super_experts


def _expert(name: str) -> tuple[int, int]:
    from ..probes.errors import OptionError

    layer, _, expert = name.partition(":")
    try:
        return int(layer), int(expert)
    except ValueError as error:
        raise OptionError(f"--expert must be LAYER:EXPERT such as 1:68, got {name!r}.") from error
