"""`fluoroscope sae eval|features`: judge trained dictionaries, and ask what their features fire on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from ..running import Terminal
from . import options

if TYPE_CHECKING:
    from ..sae.comparison import SaeComparison

Folders = Annotated[
    list[Path],
    typer.Option(
        "--sae",
        "-s",
        help="Folder of an autoencoder, as fluoroscope, SAELens, sparsify or dictionary_learning "
        "write it (repeatable).",
        show_default=False,
    ),
]
Folder = Annotated[
    Path,
    typer.Option(
        "--sae",
        "-s",
        show_default=False,
        help="Folder of the autoencoder, in any format that `sae eval` reads.",
    ),
]
Site = Annotated[
    str | None,
    typer.Option(help="Site it reads; left out: the one it was trained on, or the run's only one."),
]
Rows = Annotated[int, typer.Option("--rows", "-n", min=2, help="Rows to measure on, at most.")]
LossTokens = Annotated[
    int, typer.Option(min=0, help="Tokens read with each dictionary spliced in; 0: no model.")
]
Longest = Annotated[
    float,
    typer.Option(
        "--max-norm", help="Rows longer than this many medians are left out; 0 keeps all."
    ),
]
Probe = Annotated[
    Literal["python-class", "line-start"] | None,
    typer.Option(help="Token labels for sparse probing; left out: none."),
]
NoBaselines = Annotated[
    bool, typer.Option("--no-baselines", help="Leave principal components and random out.")
]
Name = Annotated[str, typer.Option(help="Name of the result in the run file.")]
Features = Annotated[
    list[int] | None,
    typer.Option(
        "--feature", "-f", help="Feature that gets a card (repeatable); left out: chosen."
    ),
]
Cards = Annotated[int, typer.Option(min=1, help="Cards, where no features are given.")]
Text = Annotated[
    str | None, typer.Option("--text", "-t", help="Tell which features fire on this text.")
]
NoModel = Annotated[
    bool, typer.Option("--no-model", help="Do not open the model: no logit effects.")
]


def eval(
    terminal: Terminal,
    *,
    run: options.RunFile,
    sae: Folders,
    site: Site = None,
    rows: Rows = 32_768,
    loss_tokens: LossTokens = 2048,
    max_norm: Longest = 10.0,
    probe: Probe = None,
    no_baselines: NoBaselines = False,
    name: Name = "sae_comparison",
    model: options.Model = None,
    device: options.Device = None,
) -> dict[str, Any]:
    """Judge autoencoders of one site on a run's rows: reconstruction, loss, dead latents, geometry.

    Principal components and a random decoder of equal sparsity are measured beside them. Give a run
    file that they were not trained on.

    Example: fluoroscope sae eval held-out.h5 --sae topk32 --sae mp32

    Example: fluoroscope sae eval held-out.h5 --sae topk32 --loss-tokens 0 --probe python-class
    """
    from ..probes import open_run
    from ..probes.errors import OptionError
    from ..sae.evaluate import evaluate
    from ..sae.heldout import EvaluateOptions

    opened = open_run(run)
    if len({folder.name for folder in sae}) < len(sae):
        raise OptionError("Two folders have the same name, by which dictionaries are told apart.")
    held = {folder.name: _load(folder) for folder in sae}
    where = _site(opened, site, list(held.values()))
    chosen = EvaluateOptions(
        n_rows=rows,
        n_loss_tokens=loss_tokens,
        probe_label=probe,
        baselines=not no_baselines,
        max_norm_ratio=max_norm or None,
    )
    loaded = open_model_of(opened, model, device) if loss_tokens else None
    with terminal.track("Judging", "units", in_parts=True) as progress:
        found = evaluate(opened, where, held, model=loaded, options=chosen, progress=progress)
    opened.add_result(name, found)
    terminal.wrote(run)
    terminal.show(comparison_table(found))
    return {
        "result": name,
        "site": where,
        "dictionaries": found.conditions.tolist(),
        "l0": found.l0.tolist(),
        "fvu": found.fvu.tolist(),
        "n_dead": found.n_dead.tolist(),
        "delta_loss": [plain(v) for v in found.delta_loss],
        "ce_score": [plain(v) for v in found.ce_score],
        "n_rows": found.n_rows,
        "n_long": found.n_long,
    }


def comparison_table(found: SaeComparison) -> Table:
    """A comparison for the terminal."""
    table = Table("dictionary", "L0", "FVU", "dead", "rise of loss (nats)", "CE recovered")
    for i, label in enumerate(found.conditions):
        table.add_row(
            str(label), f"{found.l0[i]:.1f}", f"{found.fvu[i]:.4f}",
            f"{found.n_dead[i] / found.d_sae[i]:.1%}", _number(found.delta_loss[i]),
            _number(found.ce_score[i]),
        )  # fmt: skip
    return table


def comparison_document(found: SaeComparison, names: list[str]) -> dict[str, dict[str, Any]]:
    """A comparison for `--json`: measurements by dictionary, those of `names`."""
    return {
        str(label): {
            "fvu": float(found.fvu[i]),
            "l0": float(found.l0[i]),
            "n_dead": int(found.n_dead[i]),
            "delta_loss": plain(found.delta_loss[i]),
            "ce_score": plain(found.ce_score[i]),
            "n_rows": found.n_rows,
        }
        for i, label in enumerate(found.conditions)
        if str(label) in names
    }


def features(
    terminal: Terminal,
    *,
    run: options.RunFile,
    sae: Folder,
    site: Site = None,
    feature: Features = None,
    cards: Cards = 8,
    text: Text = None,
    name: Name = "sae_features",
    no_model: NoModel = False,
    model: options.Model = None,
    device: options.Device = None,
) -> dict[str, Any]:
    """Index what fires where in a run, add feature cards to it, and ask about a text.

    The index stands beside the run file and is made once; questions take milliseconds.

    Example: fluoroscope sae features run.h5 --sae topk32

    Example: fluoroscope sae features run.h5 --sae topk32 -f 417 -f 93 --text 'def f(x):'
    """
    from ..probes import open_run
    from ..sae.features.asking import open_index
    from ..sae.features.cards import CardOptions, feature_cards
    from ..sae.features.firing import add_trace_firing
    from ..sae.features.paths import pursuit_paths
    from ..sae.mp import MpSae

    opened = open_run(run)
    held = _load(sae)
    where = _site(opened, site, [held])
    with terminal.track("Indexing", "units", in_parts=True) as progress:
        index = open_index(opened, where, held, name=sae.name, progress=progress)
    terminal.wrote(index.path)
    loaded = None if no_model and text is None else open_model_of(opened, model, device)
    if text is not None:
        return _ask(terminal, opened, index, held, where, loaded, text)
    with terminal.track("Cards", "features") as progress:
        found = feature_cards(
            opened, index, held, model=loaded, features=feature,
            options=CardOptions(n_features=cards), progress=progress,
        )  # fmt: skip
    opened.add_result(name, found)
    add_trace_firing(opened, where, held, name=sae.name)
    if isinstance(held, MpSae):
        opened.add_result(f"{name}_paths", pursuit_paths(opened, where, held, name=sae.name))
    terminal.wrote(run)
    table = Table("feature", "fires on", "largest", "strongest on", "raises most")
    token = _token_text(opened)
    for i in range(min(10, len(found.listed))):
        table.add_row(
            str(found.listed[i]), f"{found.listed_density[i]:.3%}", f"{found.listed_max[i]:.3g}",
            token(found.listed_top_ids[i]), token(found.listed_logit_ids[i]),
        )  # fmt: skip
    terminal.show(table)
    return {
        "result": name,
        "site": where,
        "index": index.path.name,
        "features": found.features.tolist(),
        "listed": found.listed.tolist(),
        "n_rows": found.n_rows,
    }


def _ask(
    terminal: Terminal, run: Any, index: Any, sae: Any, site: str, model: Any, text: str
) -> dict[str, Any]:
    """Which features fire on a text: from the index where the run holds it, else by a forward pass."""
    from ..sae.features.asking import firing_on_text, strongest_in_run

    ids = model.encode(text).numpy()
    found = strongest_in_run(run, index, ids)
    if found is not None:
        strongest, places = found
        source = f"the run holds it {len(places)} times; asked of the index"
        rows = list(
            zip(strongest.latents, strongest.peaks, strongest.rows - places[0], strict=True)
        )
    else:
        firing = firing_on_text(model, site, sae, text)
        order = abs(firing.values).argsort()[::-1]
        seen: dict[int, tuple[Any, Any, Any]] = {}
        for i in order:
            latent = int(firing.latents[i])
            seen.setdefault(latent, (latent, firing.values[i], firing.rows[i]))
        source = "the run does not hold it; read by the model"
        rows = list(seen.values())[:20]
    terminal.say(source)
    table = Table("feature", "largest", "on token")
    token = _token_text(run)
    for latent, value, at in rows:
        table.add_row(str(int(latent)), f"{value:.3g}", token(ids[int(at)]))
    terminal.show(table)
    return {
        "site": site,
        "in_run": found is not None,
        "features": [int(row[0]) for row in rows],
        "largest": [float(row[1]) for row in rows],
        "positions": [int(row[2]) for row in rows],
    }


def _load(folder: Path) -> Any:
    from ..sae.other_formats import load_any

    return load_any(folder).eval()


def _site(run: Any, given: str | None, saes: list[Any]) -> str:
    """The site asked for, the one trained on, or the only one of the run."""
    from ..probes.errors import OptionError

    if given is not None:
        return given
    known = {str(s.metadata["site"]) for s in saes if s.metadata.get("site")}
    if len(known) > 1:
        raise OptionError(
            f"The autoencoders were trained on different sites ({', '.join(sorted(known))}); judge "
            "those of one site at a time."
        )
    candidates = known or set(run.sites)
    if len(candidates) != 1:
        raise OptionError(
            f"Which site? {run.path.name} holds {', '.join(run.sites) or 'none'}; give --site."
        )
    return candidates.pop()


def open_model_of(run: Any, name: str | None, device: str | None) -> Any:
    """The model a run is of.

    Raises:
        FluoroscopeError: It is another model than the run was made with.
    """
    from ..probes import open_model

    loaded = open_model(name, device=device)
    run.require(weights_digest=loaded.weights_digest, tokenizer_digest=loaded.tokenizer_digest)
    return loaded


def _token_text(run: Any) -> Any:
    from ..reports.tokens import token_text

    vocabulary = run.vocabulary if run.has_vocabulary else None
    return lambda token: token_text(vocabulary, int(token)) if token >= 0 else ""


def plain(value: Any) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if value != value else float(value)


def _number(value: Any) -> str:
    return "" if value != value else f"{value:.3f}"
