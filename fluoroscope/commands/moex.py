"""`fluoroscope moe train|games`: MoE-X and its rivals on chess or text, and games to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ..running import Terminal
from . import options
from .decode import open_or_make

TaskName = Annotated[Literal["chess", "text"], typer.Option(help="What is learned.")]
Games = Annotated[
    str | None, typer.Option(help="PGN file; left out: the games that come with the package.")
]
Contestants = Annotated[
    list[str] | None,
    typer.Option(
        "--contestant",
        "-c",
        help="dense-gelu, dense-relu, dense-sae, switch, moex, moex-learned, moex-gelu, neither, "
        "moex-scratch, moex-untrained (repeatable); left out: the first five.",
    ),
]
Ablations = Annotated[bool, typer.Option("--ablations", help="All ten contestants.")]
Seeds = Annotated[int, typer.Option(min=1, help="How often each is trained: seeds 0, 1, ...")]
Steps = Annotated[int, typer.Option(min=4, help="Optimiser steps of each.")]
Rows = Annotated[int, typer.Option(min=1, help="Rows of a batch.")]
Peak = Annotated[float, typer.Option(help="Largest learning rate.")]
DModel = Annotated[int, typer.Option(min=8, help="Width of the residual stream.")]
Layers = Annotated[int, typer.Option(min=1, help="Layers.")]
Heads = Annotated[int, typer.Option(min=1, help="Attention heads.")]
Context = Annotated[int, typer.Option(min=16, help="Longest text, tokens.")]
Work = Annotated[
    Path | None,
    typer.Option(
        help="Folder of models and checkpoints, for going on; left out: beside the run file."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Run file that takes the result.")]
NGames = Annotated[int, typer.Option("--games", "-n", min=1, help="How many games.")]
Engine = Annotated[
    str | None, typer.Option(help="UCI engine such as stockfish; left out: random legal moves.")
]
Depth = Annotated[int, typer.Option(min=1, help="Plies the engine looks ahead.")]
Plies = Annotated[int, typer.Option(min=2, help="Longest game, plies.")]
Share = Annotated[float, typer.Option(help="Share of moves after the opening that are random.")]
Seed = Annotated[int, typer.Option(help="Seed of the random moves.")]
PgnFile = Annotated[Path, typer.Option("--output", "-o", help="A .pgn or .pgn.gz file.")]


def train(
    terminal: Terminal,
    *,
    output: Output,
    task: TaskName = "chess",
    games: Games = None,
    text: options.Text = None,
    contestant: Contestants = None,
    ablations: Ablations = False,
    seeds: Seeds = 3,
    steps: Steps = 400,
    rows: Rows = 16,
    peak: Peak = 3e-3,
    d_model: DModel = 64,
    layers: Layers = 2,
    heads: Heads = 4,
    context: Context = 160,
    work: Work = None,
    device: options.Device = None,
) -> dict[str, Any]:
    """Train MoE-X and models of as many active parameters, and compare what their features mean.

    An interrupted call goes on where it stopped. Models are left in the working folder, loadable with
    open_model.

    Example: fluoroscope moe train --task chess --ablations -o moex-chess.h5

    Example: fluoroscope moe train --task text --seeds 1 --steps 100 -c moex -c switch -o moex-text.h5
    """
    from ..moe.moex.comparison import ComparisonOptions, compare
    from ..moe.moex.contestants import CONTESTANTS, MAIN, Sizes
    from ..moe.moex.tasks import chess_task, text_task
    from ..moe.moex.training import TrainOptions
    from ..probes import open_corpus, open_model
    from ..probes.errors import OptionError

    if (games and task != "chess") or (text and task != "text"):
        raise OptionError("--games goes with --task chess, --text with --task text.")
    chosen = tuple(c.slug for c in CONTESTANTS) if ablations else tuple(contestant or MAIN)
    rules = ComparisonOptions(
        contestants=chosen,
        seeds=tuple(range(seeds)),
        sizes=Sizes(d_model=d_model, n_layers=layers, n_heads=heads, context=context),
        training=TrainOptions(steps=steps, n_rows=rows, peak=peak, warmup=max(steps // 8, 1)),
    )
    if task == "chess":
        learned = chess_task(games, context=context)
    else:
        learned = text_task(open_corpus(text) if text else None, context=context)
    folder = work or output.with_suffix(".work")
    with terminal.track("Training", "steps") as progress:
        found = compare(learned, rules, work=folder, device=device, progress=progress)
    shown = open_model(
        next(
            place
            for slug in ("moex", *chosen)
            if (place := folder / f"{slug}-0" / "model").exists()
        )
    )
    open_or_make(output, shown).add_result(f"moex_{task}", found)
    terminal.wrote(output)
    metrics = [m for m in found.metrics if m in ("loss", "coverage", "reconstruction", "detection")]
    table = Table("model", *(m for m in metrics if (found.of(m) == found.of(m)).any()))
    for row, name in enumerate(found.contestants):
        cells = [_cell(found, m, row) for m in metrics if (found.of(m) == found.of(m)).any()]
        table.add_row(str(name), *cells)
    terminal.show(table)
    return {
        "task": task,
        "work": str(folder),
        "means": {
            str(name): {
                str(metric): float(found.mean[m, row])
                for m, metric in enumerate(found.metrics)
                if found.mean[m, row] == found.mean[m, row]
            }
            for row, name in enumerate(found.contestants)
        },
    }


def games(
    terminal: Terminal,
    *,
    output: PgnFile,
    games: NGames = 8000,
    engine: Engine = None,
    depth: Depth = 2,
    plies: Plies = 40,
    random_share: Share = 0.1,
    seed: Seed = 0,
) -> dict[str, Any]:
    """Play games to learn from: openings of random moves, then an engine or random moves.

    Example: fluoroscope moe games -n 2000 -o random.pgn.gz

    Example: fluoroscope moe games --engine stockfish --depth 2 -o games.pgn.gz
    """
    from ..moe.moex.games import play_games, write_games

    with terminal.track("Playing", "games") as progress:
        played = play_games(
            games, engine=engine, depth=depth, n_plies=plies, random_share=random_share, seed=seed,
            progress=progress,
        )  # fmt: skip
    terminal.wrote(write_games(played, output))
    length = sum(map(len, played)) / len(played)
    terminal.show(f"{len(played)} games, {length:.0f} characters each")
    return {"file": str(output), "n_games": len(played), "mean_characters": length}


def _cell(found: Any, metric: str, row: int) -> str:
    index = found.metrics.tolist().index(metric)
    mean, low, high = (float(part[index, row]) for part in (found.mean, found.low, found.high))
    return f"{mean:.3f}" if low != low else f"{mean:.3f} [{low:.3f}, {high:.3f}]"
