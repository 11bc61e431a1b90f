"""`fluoroscope decode` and `fluoroscope engines`: text from prompts, under the hooks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from .. import completing
from ..running import Terminal
from . import options

Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        "-e",
        help="How to decode; `fluoroscope engines` lists them.",
        autocompletion=completing.engines,
    ),
]
Prompt = Annotated[
    list[str] | None, typer.Option("--prompt", "-p", help="Text to go on from (repeatable).")
]
Prompts = Annotated[
    Path | None, typer.Option(help="File of prompts: one a line, or .jsonl with a field `prompt`.")
]
MaxNew = Annotated[int, typer.Option("--max-new-tokens", min=1, help="At most this many tokens.")]
Temperature = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="0 takes the likeliest token; above, logits are divided by it and a token is drawn.",
    ),
]
TopK = Annotated[int | None, typer.Option(min=1, help="Draw from this many likeliest tokens.")]
TopP = Annotated[float | None, typer.Option(help="Draw from this share of probability.")]
Seed = Annotated[int, typer.Option(help="Seed of the draws.")]
Stop = Annotated[list[str] | None, typer.Option(help="A string that ends the text (repeatable).")]
Chat = Annotated[bool, typer.Option("--chat", help="Put prompts in the model's chat template.")]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Go on past end-of-sequence tokens.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Run file that takes the trace, made if new; for `fluoroscope report`.",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", help="Also draw the page, to this file; needs --output."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="An option of the engine, NAME=VALUE (repeatable); `fluoroscope engines NAME` lists them.",
    ),
]
Learned = Annotated[
    Path | None,
    typer.Option(help="File of what the engine learned: taken up if it exists, then kept there."),
]
Again = Annotated[bool, typer.Option("--again", help="Decode anew what the run file holds.")]
Name = Annotated[
    str | None,
    typer.Argument(
        help="Tell this engine's options.", show_default=False, autocompletion=completing.engines
    ),
]


def decode(
    terminal: Terminal,
    *,
    engine: Engine = "plain",
    prompt: Prompt = None,
    prompts: Prompts = None,
    max_new_tokens: MaxNew = 128,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = 0,
    set_: Set = None,
    learned: Learned = None,
    stop: Stop = None,
    ignore_eos: IgnoreEos = False,
    chat: Chat = False,
    sites: options.Sites = None,
    output: Output = None,
    again: Again = False,
    report: Report = None,
    model: options.Model = None,
    backend: options.Backend = "transformers",
    device: options.Device = None,
    dtype: options.Dtype = None,
    dry_run: options.DryRun = False,
) -> list[dict[str, Any]] | dict[str, Any]:
    """Decode prompts with an engine; with -o the trace goes into a run file for the report.

    The same command again goes on where it was interrupted: prompts whose text the run file holds, made
    by the same engine with the same weights, options and stopping rules, are not decoded a second time.

    Example: fluoroscope decode --prompt 'Once upon a time'

    Example: fluoroscope decode --prompt 'Why is the sky blue?' --chat -o run.h5 --json
    """
    from ..decoding import Stopping, load_learned, make_engine
    from ..decoding.learned import require_learning
    from ..probes import open_model
    from .decoded import Book

    given = read_prompts(prompt, prompts)
    _require_output(output, report)
    opened = open_model(model, backend=backend, device=device, dtype=dtype)
    if dry_run:
        from ..planning import plan_decoding, show_plan

        return show_plan(terminal, [plan_decoding(opened, given, max_new_tokens, sites or ())])
    run = None if output is None or not output.exists() else _open_existing(output, opened)
    chosen = make_engine(
        opened,
        engine,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        **engine_options(set_ or ()),
    )
    if learned is not None:
        require_learning(chosen)
        if learned.exists():
            load_learned(chosen, learned)
    rules = Stopping(max_new_tokens=max_new_tokens, stop=tuple(stop or ()), ignore_eos=ignore_eos)
    # What cannot be decoded is found before anything is.
    keys = [tuple(chosen.encode(text, chat=chat).tolist()) for text in given]
    book = Book(terminal, chosen, rules, sites or (), keys, run=run, again=again)
    try:
        with terminal.track("Decoding", "prompts") as progress:
            for number, text in enumerate(given):
                if book.made[number] is None:
                    one = chosen.generate(text, stopping=rules, sites=sites or (), chat=chat)
                    book.add(number, one[0])
                progress(number + 1, len(given))
                terminal.show(_shown(book.made[number]))
    finally:
        book.keep(learned=learned, output=output)
    if output is not None and report is not None:
        from ..reports import build_report

        terminal.wrote(build_report(output, report))
        terminal.show(f"Report: {report}")
    return [generation.as_dict() for generation in book.made]


def engines(terminal: Terminal, *, name: Name = None) -> list[dict[str, Any]]:
    """List the decoding engines: what they do, which paper they follow, whether they are lossless.

    With a name: that engine's options, their defaults and what they mean.

    Example: fluoroscope engines

    Example: fluoroscope engines plain
    """
    from dataclasses import asdict

    from ..decoding import engine_class
    from ..decoding import engines as registered

    if name is not None:
        return [_tell(terminal, engine_class(name))]
    table = Table("engine", "what it does", "paper", "lossless", "needs", title="Engines")
    for about in registered():
        lossless = "yes" if about.lossless else "no"
        paper = f"arXiv {about.paper}" if about.paper else ""
        table.add_row(about.name, about.summary, paper, lossless, about.needs)
    terminal.show(table)
    return [asdict(about) for about in registered()]


def _tell(terminal: Terminal, engine: Any) -> dict[str, Any]:
    """One engine and its options, with the text that stands under each field in the source."""
    from dataclasses import asdict

    from ..fields import described_fields

    about = engine.about
    terminal.show(f"{about.name}: {about.summary}")
    table = Table("option", "default", "meaning")
    found = described_fields(engine.Options)
    for field in found:
        table.add_row(field.name, repr(field.default), field.meaning)
    terminal.show(table)
    return asdict(about) | {"options": [asdict(field) for field in found]}


def _require_output(output: Path | None, report: Path | None) -> None:
    from ..probes.errors import OptionError

    if report is not None and output is None:
        raise OptionError("--report draws the run file; name one with --output, such as -o run.h5.")


def engine_options(given: Sequence[str]) -> dict[str, Any]:
    """Options of an engine from NAME=VALUE; values are read as JSON, else taken as text.

    Raises:
        OptionError: There is no equals sign.
    """
    from ..probes.errors import OptionError

    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise OptionError(f"--set takes NAME=VALUE, got {text!r}.")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        found[name.strip().replace("-", "_")] = tuple(read) if isinstance(read, list) else read
    return found


def read_prompts(given: list[str] | None, file: Path | None) -> list[str]:
    """Prompts from the command line and from a file.

    Raises:
        CorpusError: There are none, or the file cannot be read.
    """
    from ..probes import open_corpus
    from ..probes.errors import CorpusError

    found = list(given or [])
    if file is not None and file.suffix in (".jsonl", ".ndjson"):
        found += [document.text for document in open_corpus(file)]
    elif file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"Prompts cannot be read from {file}: {error}") from error
        found += [line for line in lines if line.strip()]
    if not found:
        raise CorpusError("Give a prompt: --prompt TEXT, or --prompts FILE with one a line.")
    return found


def open_or_make(path: Path, model: Any) -> Any:
    """The run file at `path` if it came from this model; a new one without rows if there is none.

    Raises:
        RunMismatchError: It came from another model.
    """
    from ..probes import Provenance, create_run, open_run

    if path.exists():
        return _open_existing(path, model)
    provenance = Provenance(
        model=model.info.as_dict(), corpus={"description": "no corpus, prompts only"}
    )
    with create_run(path, provenance=provenance) as writer:
        if model.has_tokenizer:
            writer.set_vocabulary(model.vocabulary)
        writer.close()
    return open_run(path)


def _open_existing(path: Path, model: Any) -> Any:
    from ..probes import open_run

    run = open_run(path)
    run.require(weights_digest=model.weights_digest, tokenizer_digest=model.tokenizer_digest)
    return run


def _shown(generation: Any) -> Text:
    stats = generation.stats
    took = f"{stats.n_emitted} tokens, {stats.tokens_per_second:.1f} tokens/s"
    return Text.assemble(
        (generation.prompt, "dim"),
        (generation.text, "bold"),
        (f"\n[{took}, {generation.stop_reason}]\n", "cyan"),
    )
