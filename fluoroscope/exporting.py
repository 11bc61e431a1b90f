"""Parts of a run file as tables for other tools: which columns, and how they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from .probes.errors import MissingPackageError, MissingResultError, OptionError

if TYPE_CHECKING:
    from .probes import Run

Table = dict[str, np.ndarray]
"""Columns of one length by name; a column may have several values per row."""


def columns_of(run: Run, path: str, *, limit: int | None = None) -> Table:
    """The columns at a path of a run file.

    Args:
        run: The run.
        path: A site's name, or the path of a dataset or of a group of datasets.
        limit: Only the first so many rows.

    Raises:
        MissingResultError: Nothing is there; what is there is named.
        OptionError: A group whose members have different lengths.
    """
    if path in run.sites:
        return {path: run.activations[path].read(slice(0, limit)).float().numpy()}
    with run.reading() as file:
        name = path.strip("/")
        found = file.get(name) if name else file
        if isinstance(found, h5py.Dataset):
            datasets = {name.rpartition("/")[2]: found}
        elif isinstance(found, h5py.Group):
            datasets = {k: held for k, held in found.items() if isinstance(held, h5py.Dataset)}
        else:
            raise MissingResultError(f"{run.path.name} holds no {path!r}; {_beside(file, name)}.")
        table = {key: _values(held, limit) for key, held in datasets.items()}
    lengths = {key: len(column) for key, column in table.items()}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{key} ({n})" for key, n in lengths.items()) or "nothing"
        raise OptionError(
            f"{path!r} must be an array, or a group of arrays of one length; it holds {listed}. "
            f"Name one of them: {path.rstrip('/')}/NAME."
        )
    return table


def write_table(table: Table, path: Path, kind: str) -> None:
    """Write columns; the file appears whole or not at all.

    In CSV, text that a spreadsheet would run as a formula begins with an apostrophe.

    Raises:
        MissingPackageError: Parquet without pyarrow.
    """
    from .probes.runfile.atomic import replacing
    from .reports.spreadsheets import write_csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if kind == "npz":
            with partial.open("wb") as file:
                np.savez_compressed(file, **table)  # type: ignore[arg-type]
        elif kind == "parquet":
            _parquet(table, partial)
        elif kind == "jsonl":
            names, rows = _rows(table)
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(
                    json.dumps(dict(zip(names, map(_json, row), strict=True)), ensure_ascii=False)
                    + "\n"
                    for row in rows
                )
        else:
            names, rows = _rows(_split(table))
            with partial.open("w", encoding="utf-8", newline="") as file:
                write_csv(file, names, rows)


def _beside(file: h5py.File, name: str) -> str:
    """What the nearest group that is there holds."""
    while name and not isinstance(file.get(name), h5py.Group):
        name = name.rpartition("/")[0]
    group = file[name] if name else file
    assert isinstance(group, h5py.Group)
    return f"/{name} holds: {', '.join(group)}"


def _values(held: h5py.Dataset, limit: int | None) -> np.ndarray:
    if held.ndim == 0:
        return np.asarray(held[()]).reshape(1)
    rows = held.asstr()[:limit] if h5py.check_string_dtype(held.dtype) else held[:limit]
    return np.asarray(rows)


def _rows(table: Table) -> tuple[list[str], Any]:
    return list(table), zip(*(column.tolist() for column in table.values()), strict=True)


def _split(table: Table) -> Table:
    """One column per value: `top_ids` of width 5 becomes `top_ids[0]` to `top_ids[4]`."""
    found: Table = {}
    for name, column in table.items():
        if column.ndim == 1:
            found[name] = column
            continue
        flat = column.reshape(len(column), -1)
        found |= {f"{name}[{number}]": flat[:, number] for number in range(flat.shape[1])}
    return found


def _json(value: Any) -> Any:
    """JSON has no NaN or infinity: null."""
    if isinstance(value, list):
        return [_json(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _parquet(table: Table, path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError(
            "Parquet needs pyarrow: pip install 'fluoroscope[corpora]'. Or choose --format csv."
        ) from error
    columns = {
        name: column.tolist() if column.ndim > 1 else column for name, column in table.items()
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
