"""`fluoroscope xray`: the main job, from a model to a page that shows its inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..running import Terminal
from ..xraying import FEW, MANY, SHORT, run_steps, xray_steps
from . import options
from .decode import open_or_make

Output = Annotated[Path, typer.Option("--output", "-o", help="The run file to write.")]
Report = Annotated[
    Path | None, typer.Option("--report", help="The page; left out: beside the run file.")
]
ENGINES = ("plain", "prompt-lookup", "token-recycling", "suffix", "hybrid")
"""Engines that decode the traced prompt, so that the page can compare them."""
SEEN_INSIDE = ("plain", "hybrid")
"""Those whose rows are read through the layers; hybrid's refused drafts among them."""

Prompt = Annotated[str, typer.Option("--prompt", "-p", help="Prompt of the traced generation.")]
Tokens = Annotated[int, typer.Option("--tokens", "-n", min=1024, help="Tokens to read and keep.")]
Again = Annotated[bool, typer.Option("--again", help="Compute results anew that are there.")]

PROMPT = "Explain in a few sentences how a language model chooses its next word."
PER_DOCUMENT = 1
UNTIMED = (
    "Attention on a source, information, superposition, two small dictionaries and the other engines "
    "are not in this estimate; for the embedded model they take about three minutes on two cores."
)
NEW_TOKENS = 96


def xray(
    terminal: Terminal,
    *,
    output: Output = Path("run.h5"),
    report: Report = None,
    text: options.Text = None,
    tokens: Tokens = 8192,
    prompt: Prompt = PROMPT,
    store: options.Store = "bfloat16",
    model: options.Model = None,
    backend: options.Backend = "transformers",
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    again: Again = False,
    dry_run: options.DryRun = False,
) -> dict[str, Any]:
    """Look inside a model: read text, keep its states, analyse them, decode, draw one page.

    Captures the residual stream; measures loss, norms, the logit lens, massive activations and who
    writes them, attention sinks, and what falls when the writers are ablated; what states hold of
    tokens to come, superposition, two small dictionaries, super experts where there are any; traces
    a generation by several engines. What a model or text does not allow is left out and said so.
    Ctrl-C keeps what is done; the same command picks up there.

    Example: fluoroscope xray

    Example: fluoroscope xray --text README.md --tokens 1024 -o readme.h5
    """
    from ..probes import capture_corpus, open_corpus, open_model
    from ..reports import build_report, verdict_of
    from ..reports.verdict import as_text

    per_document = PER_DOCUMENT if text is None else None
    terminal.say("Opening the model (the first time converts it; later openings take seconds)")
    opened = open_model(model, backend=backend, device=device, dtype=dtype)
    terminal.say(repr(opened))
    if dry_run:
        return _plan(
            terminal, opened, open_corpus(text), output, tokens, store, prompt, per_document
        )
    with terminal.track("Reading", "tokens") as progress:
        run = capture_corpus(
            opened,
            open_corpus(text),
            "layers.*.resid_post",
            output,
            n_tokens=tokens,
            per_document=per_document,
            dtype=store,
            overwrite=overwrite,
            progress=progress,
        )
    # Decoded first, so that what is trained later can say what fires in the traces.
    for name in ENGINES:
        if again or name not in run.traces:
            _trace(terminal, opened, name, prompt, output)
    run_steps(terminal, run.refresh(), xray_steps(opened, run, terminal.say), again=again)
    page = build_report(output, report)
    terminal.wrote(output)
    terminal.wrote(page)
    verdict = verdict_of(run.refresh())
    terminal.show(f"{as_text(verdict)}\n\nRun file: {output}\nReport:   {page}")
    return run.summary() | {"report": str(page), "verdict": [one.as_dict() for one in verdict]}


def _trace(terminal: Terminal, model: Any, name: str, prompt: str, output: Path) -> None:
    """Decode the traced prompt with an engine and keep what went on."""
    from ..decoding import RollBackError, Stopping, make_engine, save_generations
    from ..decoding.kept import identity_of

    terminal.say(f"Decoding the traced generation with {name}")
    # Drafts are verified whole, so that the page shows what each method proposes.
    whole = {} if name == "plain" else {"thrifty": False}
    engine = make_engine(model, name, **whole)
    rules = Stopping(max_new_tokens=NEW_TOKENS)
    sites = ["layers.*.resid_post"] if name in SEEN_INSIDE else []
    try:
        made = engine.generate(
            prompt,
            stopping=rules,
            chat=model.has_tokenizer and model.tokenizer.chat_template is not None,
            sites=sites,
        )
    except RollBackError as error:
        terminal.say(f"{name} is left out: {error}")
        return
    with terminal.track("Reading rows", "layers") as progress:
        save_generations(
            open_or_make(output, model),
            engine,
            made,
            keep_states=name == "plain",
            identity=identity_of(engine, rules, sites),
            progress=progress,
        )


def _plan(
    terminal: Terminal,
    model: Any,
    corpus: Any,
    output: Path,
    tokens: int,
    store: str,
    prompt: str,
    per_document: int | None,
) -> dict[str, Any]:
    """What an X-ray would do; see `planning.py`."""
    from ..planning import (
        measure_speed,
        plan_capture,
        plan_decoding,
        plan_reading,
        resume_note,
        show_plan,
    )

    speed = measure_speed(model)
    first = plan_capture(
        model, corpus, "layers.*.resid_post", n_tokens=tokens, context=None,
        per_document=per_document, store=store, speed=speed,
    )  # fmt: skip
    read = {"layer_stats": MANY, "next_token": MANY, "massive_activations": MANY}
    if "attn.pattern" in model.sites.kinds:
        read |= {"attention_sinks": SHORT, "ablation_story": FEW}
    read["logit_lens"] = FEW
    steps = [plan_reading(name, min(n, tokens), speed) for name, n in read.items()]
    last = plan_decoding(model, [prompt], NEW_TOKENS, ["layers.*.resid_post"])
    note = " ".join([UNTIMED, resume_note(output)]).strip()
    return show_plan(terminal, [first, *steps, last], note=note)
