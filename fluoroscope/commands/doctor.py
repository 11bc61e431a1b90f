"""`fluoroscope doctor` and `fluoroscope check`: is this machine, and is this model, as it should be?"""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..running import CHECK_FAILED, Terminal
from . import options

COLOUR = {"ok": "green", "absent": "yellow", "fails": "red"}


def doctor(terminal: Terminal) -> list[dict[str, str]]:
    """Look at what fluoroscope needs here: versions, memory, cores, cache, model, browser, HDF5.

    Every line that is not ok says what to type. Exit code 4 when something fails that everybody
    needs; "absent" is optional and does not count.

    Example: fluoroscope doctor

    Example: fluoroscope doctor --json
    """
    from ..checkup import findings

    found = list(findings())
    table = Table("what", "state", "found", "what to type")
    for line in found:
        table.add_row(line.name, Text(line.state, COLOUR[line.state]), line.detail, line.mend)
    terminal.show(table)
    if any(line.state == "fails" for line in found):
        terminal.exit_code = CHECK_FAILED
    return [line.as_dict() for line in found]


def check(
    terminal: Terminal,
    *,
    model: Annotated[
        str | None,
        typer.Argument(
            help="Directory, hub name or GGUF file; left out: the embedded model.",
            show_default=False,
        ),
    ] = None,
    backend: options.Backend = "transformers",
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> dict[str, Any]:
    """Check that a model's sites hold what their names say, on a tiny forward pass.

    The residual stream at every layer is compared with the model's own hidden states, sums with
    their parts, and reading without editing must leave the logits bit for bit. A wrong mapping
    ends with exit code 4 and is named.

    Example: fluoroscope check

    Example: fluoroscope check --backend transformers --json
    """
    from ..probes import check_sites, open_model
    from ..probes.errors import SiteCheckError

    opened = open_model(model, backend=backend, device=device, dtype=dtype, check=False)
    try:
        found = check_sites(opened)
    except SiteCheckError as error:
        terminal.exit_code = CHECK_FAILED
        terminal.show(Text.assemble(("does not hold", "red"), f" {error}"))
        return {"model": opened.name, "problem": str(error)}
    worst = int(found.errors.argmax()) if len(found.errors) else None
    table = Table("what", "value", show_header=False)
    table.add_row("model", opened.name)
    table.add_row("sites", str(len(found.sites)))
    table.add_row("comparisons", f"{len(found.checks)}, all hold")
    if worst is not None:
        table.add_row(
            "largest relative error",
            f"{found.errors[worst]:.1e} at {found.checks[worst]} (allowed: {found.tolerance:.0e})",
        )
    terminal.show(table)
    return {
        "model": opened.name,
        "n_sites": len(found.sites),
        "checks": [str(name) for name in found.checks],
        "errors": [float(error) for error in found.errors],
        "tolerance": float(found.tolerance),
    }
