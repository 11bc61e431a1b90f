"""`fluoroscope export`: one array or table out of a run file, for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..running import Terminal
from . import options

Where = Annotated[
    str,
    typer.Argument(
        help="Path inside the run file: a site ('layers.11.resid_post'), '/results/NAME/FIELD', or a "
        "group of columns such as '/trace/plain/tokens'. See `fluoroscope info`.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Where to write; the ending names the format. Left out: like PATH."
    ),
]
Kind = Annotated[
    Literal["csv", "jsonl", "npz", "parquet"] | None,
    typer.Option("--format", "-f", help="Left out: the ending of --output, else csv."),
]
Rows = Annotated[
    int | None, typer.Option(min=1, help="Only the first so many rows; left out: all.")
]


def export(
    terminal: Terminal,
    *,
    run: options.RunFile,
    path: Where,
    output: Output = None,
    format_: Kind = None,
    rows: Rows = None,
) -> dict[str, Any]:
    """Write an array or a table of a run file as CSV, JSON lines, numpy or parquet.

    A group whose members have the same length becomes one table. bfloat16 rows become float32,
    which holds them exactly. Text of a CSV that a spreadsheet would run as a formula (it begins with =,
    +, - or @) gets an apostrophe in front. Parquet needs `pip install 'fluoroscope[corpora]'`.

    Example: fluoroscope export out/run.h5 /results/logit_lens/kl

    Example: fluoroscope export out/run.h5 /trace/plain/tokens -o tokens.jsonl
    """
    from ..exporting import columns_of, write_table
    from ..probes import open_run

    opened = open_run(run)
    table = columns_of(opened, path, limit=rows)
    ending = output.suffix.lstrip(".") if output is not None else ""
    kind = format_ or (ending if ending in ("csv", "jsonl", "npz", "parquet") else "csv")
    name = path.strip("/").replace("/", ".")
    target = output or run.with_name(f"{run.stem}.{name}.{kind}")
    write_table(table, target, kind)
    terminal.wrote(target)
    n_rows = len(next(iter(table.values())))
    terminal.show(f"{target}: {n_rows:,} rows, {len(table)} columns")
    return {"output": str(target), "n_rows": n_rows, "columns": list(table)}
