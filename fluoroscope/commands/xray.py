"""`fluoroscope xray`: the main job, from a model to a page that shows its inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..running import Terminal
from . import options
from .decode import open_or_make

Output = Annotated[Path, typer.Option("--output", "-o", help="The run file to write.")]
Report = Annotated[
    Path | None, typer.Option("--report", help="The page; left out: beside the run file.")
]
ENGINES = ("plain", "prompt-lookup", "token-recycling", "suffix", "hybrid")
"""Engines that decode the traced prompt, so that the page can compare them."""

Prompt = Annotated[str, typer.Option("--prompt", "-p", help="Prompt of the traced generation.")]
Tokens = Annotated[int, typer.Option("--tokens", "-n", min=1024, help="Tokens to read and keep.")]
Again = Annotated[bool, typer.Option("--again", help="Compute results anew that are there.")]

PROMPT = "Explain in a few sentences how a language model chooses its next word."
PER_DOCUMENT = 2
MANY, FEW, SHORT = 4096, 1024, 64 * 32
"""Tokens the readings read: cheap ones, dear ones, and attention over windows of 64."""
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
    writes them, attention sinks, and what falls when the writers are ablated; traces a generation.
    Ctrl-C keeps what is done; the same command picks up there.

    Example: fluoroscope xray

    Example: fluoroscope xray --text README.md --tokens 1024 -o readme.h5
    """
    from ..decoding import RollBackError, Stopping, make_engine, save_generations
    from ..moe.xray import expert_readings
    from ..probes import capture_corpus, check_sites, open_corpus, open_model
    from ..probes.readings import texts_of
    from ..reports import build_report

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
    if again or "self_check" not in run.results:
        run.add_result("self_check", check_sites(opened))
    for name, analyse in _analyses(opened, run).items():
        if again or name not in run.results:
            with terminal.track(name.replace("_", " ").capitalize(), "units") as progress:
                found = analyse(progress)
            if found is not None:
                run.add_result(name, found)
    if again or "expert_profile" not in run.results:
        texts = texts_of(run, n_tokens=FEW)
        with terminal.track("Experts", "units") as progress:
            for name, found in expert_readings(opened, texts, progress=progress).items():
                run.add_result(name, found)
    chat = opened.has_tokenizer and opened.tokenizer.chat_template is not None
    rules = Stopping(max_new_tokens=NEW_TOKENS)
    for name in ENGINES:
        if not again and name in run.traces:
            continue
        terminal.say(f"Decoding the traced generation with {name}")
        # Drafts are verified whole, so that the page shows what each method proposes.
        whole = {} if name == "plain" else {"thrifty": False}
        engine = make_engine(opened, name, **whole)
        sites = ["layers.*.resid_post"] if name == "plain" else []
        try:
            made = engine.generate(prompt, stopping=rules, chat=chat, sites=sites)
        except RollBackError as error:
            terminal.say(f"{name} is left out: {error}")
            continue
        save_generations(open_or_make(output, opened), engine, made)
    page = build_report(output, report)
    terminal.wrote(output)
    terminal.wrote(page)
    terminal.show(f"Run file: {output}\nReport:   {page}")
    return run.refresh().summary() | {"report": str(page)}


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
    return show_plan(terminal, [first, *steps, last], note=resume_note(output))


def _analyses(model: Any, run: Any) -> dict[str, Callable[[Any], Any]]:
    """The readings of an X-ray by result name, in order."""
    from ..probes.readings import (
        MassiveActivations,
        ablation_story,
        attention_sinks,
        find_massive,
        layer_stats,
        logit_lens,
        next_token,
        texts_of,
    )

    many = texts_of(run, n_tokens=MANY)
    few = texts_of(run, n_tokens=FEW)
    readings: dict[str, Callable[[Any], Any]] = {
        "layer_stats": lambda progress: layer_stats(model, many, progress=progress),
        "next_token": lambda progress: next_token(model, many, progress=progress),
        "massive_activations": lambda progress: find_massive(model, many, progress=progress),
    }
    if "attn.pattern" in model.sites.kinds:
        short = texts_of(run, n_tokens=SHORT, cut=64)
        readings["attention_sinks"] = lambda progress: attention_sinks(
            model, short, progress=progress
        )
        readings["ablation_story"] = lambda progress: ablation_story(
            model,
            few,
            run.result("massive_activations", MassiveActivations),
            progress=progress,
        )
    readings["logit_lens"] = lambda progress: logit_lens(model, few, progress=progress)
    return readings
