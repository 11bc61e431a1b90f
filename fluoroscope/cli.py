"""The command line: a thin skin over the public API, one file per command in `commands/`.

`fluoroscope --help` and completion answer without importing torch: commands import the rooms inside
their bodies.
"""

import sys
from importlib import metadata
from typing import Annotated

import typer

from .commands import (
    attention,
    capture,
    compare,
    completion,
    decode,
    dictionaries,
    distil,
    doctor,
    export,
    figures,
    information,
    inspect,
    lens,
    models,
    moe,
    moex,
    probe,
    report,
    sae,
    subjects,
    superposition,
    superposition_layers,
    synthetic,
    xray,
)
from .running import USAGE, command, envelope, print_json

TOUR = """Watch a language model think while it decodes.

Look inside the embedded model and write a page: `fluoroscope xray`

Keep states: `fluoroscope capture --sites 'layers.*.resid_post' -o run.h5`

Add the logit lens to a run file: `fluoroscope lens run.h5`

Decode with a trace: `fluoroscope decode --prompt 'Once upon a time' -o run.h5`

Draw the page: `fluoroscope report run.h5 --open`

Something does not work? `fluoroscope doctor`
"""

app = typer.Typer(
    name="fluoroscope",
    help=TOUR,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

COMMANDS = (
    xray.xray,
    capture.capture,
    lens.lens,
    probe.probe,
    information.information,
    decode.decode,
    decode.engines,
    distil.distil,
    report.report,
    figures.figures,
    compare.compare,
    inspect.info,
    inspect.verify,
    models.models,
    models.sites,
    export.export,
    doctor.check,
    doctor.doctor,
    completion.completion,
)
for _function in COMMANDS:
    command(app, _function)

GROUPS = {
    "attention": (
        "Attention on a source, and how it fades.",
        (
            attention.source,
            attention.invention,
            attention.constructions,
        ),
    ),
    "moe": (
        "Experts: found, taken out, rounded, carved; MoE-X trained.",
        (
            moe.carve,
            moe.profile,
            moe.prune,
            moe.quantise,
            moex.train,
            moex.games,
        ),
    ),
    "sae": (
        "Sparse autoencoders: trained, judged, asked.",
        (
            sae.train,
            dictionaries.eval,
            dictionaries.features,
            synthetic.synthetic,
            synthetic.modality,
        ),
    ),
    "subjects": (
        "One decoder for many subjects.",
        (
            subjects.voxels,
            subjects.models,
        ),
    ),
    "superposition": (
        "Superposition: effective features of layers, and experiments on the measure.",
        (
            superposition_layers.layers,
            superposition.toy,
            superposition.parity,
            superposition.sort,
            superposition.dropout,
            superposition.capacity,
            superposition.grokking,
            superposition.adversarial,
        ),
    ),
}
"""Commands of commands: what each is about, and what it does."""
for name, (about, functions) in GROUPS.items():
    group = typer.Typer(help=about, no_args_is_help=True)
    for _function in functions:
        command(group, _function)
    app.add_typer(group, name=name)


def _tell_version(wanted: bool) -> bool:  # noqa: FBT001 - typer's callback
    if wanted:
        typer.echo(metadata.version("fluoroscope"))
        raise typer.Exit
    return wanted


@app.callback()
def tour(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_tell_version,
            help="Print the version and end; `fluoroscope doctor` tells those of all packages.",
        ),
    ] = False,
) -> None:
    """The five-line tour is the application's help; nothing runs without a command."""


def main() -> None:
    """Entry point of the console script; ends the process with one of `running`'s exit codes."""
    if "--json" not in sys.argv:
        app()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except (typer.TyperException, typer.Abort) as error:
        failure = {"type": type(error).__name__, "message": str(error)}
        print_json(envelope(None, error=failure))
        sys.exit(USAGE)
