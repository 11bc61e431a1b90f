"""Pages written from the code at every build, so that they cannot be out of date.

Commands and their options from the typer application, engines from the registry, sites from the
family tables, kinds of result from their dataclasses, and one page per package for autodoc. They go to
`docs/reference/made`, which is no part of the repository.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("probes", "sae", "moe", "decoding", "reports", "fluoroscope")
MADE = "reference/made"
APART = ("commands", "static", "templates", "data")
"""Folders that are not described function by function: commands have a page of their own."""


@dataclass(frozen=True)
class Command:
    """One command as typer knows it."""

    name: str
    """With its group, such as "sae train"."""
    help: str
    examples: tuple[str, ...]
    parameters: tuple[Any, ...]

    @property
    def options(self) -> frozenset[str]:
        """Every spelling of every option."""
        return frozenset(
            word
            for parameter in self.parameters
            for word in (*parameter.opts, *parameter.secondary_opts)
        ) | {"--help", "-h"}


def commands() -> dict[str, Command]:
    """All commands by name, those of groups included."""
    import typer

    from fluoroscope.cli import app

    return {command.name: command for command in _walk(typer.main.get_command(app), "")}


def _walk(node: Any, name: str) -> Iterator[Command]:
    if not hasattr(node, "commands"):
        examples = [line for line in (node.epilog or "").split("\n\n") if line]
        told = tuple(line.partition("`")[2].rstrip("`") for line in examples)
        yield Command(name, (node.help or "").strip(), told, tuple(node.params))
        return
    for part, inner in node.commands.items():
        yield from _walk(inner, f"{name} {part}".strip())


def command_page() -> str:
    """The reference of the command line."""
    from fluoroscope.running import SHARED

    lines = ["# Commands", "", "Written from the program itself. [The manners all commands share]"]
    lines[-1] += "(../../command-line.md): JSON, exit codes, options from a file."
    found = commands()
    for command in found.values():
        lines += ["", f"## fluoroscope {command.name}", "", command.help, ""]
        own = [p for p in command.parameters if p.name not in SHARED and p.name != "help"]
        rows = [(_spelling(p), _default(p), _cell(getattr(p, "help", "") or "")) for p in own]
        if rows:
            lines += _table(("option", "default", "meaning"), rows)
        if command.examples:
            lines += ["", "```console", *(f"$ {line}" for line in command.examples), "```"]
    some = next(iter(found.values()))
    shared = [p for p in some.parameters if p.name in SHARED]
    rows = [(_spelling(p), _default(p), _cell(p.help or "")) for p in shared]
    lines += ["", "## In every command", "", *_table(("option", "default", "meaning"), rows)]
    return "\n".join(lines) + "\n"


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{word}`" for word in parameter.opts)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value == () or value is False or value == "":
        return ""
    return f"`{value}`"


def engine_page() -> str:
    """The table of engines, and every engine's options."""
    from fluoroscope.decoding import engines

    about = engines()
    lines = [
        "# Engines", "",
        "Written from the registry. Use one by name: `fluoroscope decode --engine NAME`, or",
        "`fluoroscope.generate(model, prompt, engine=NAME, **options)`.", "",
    ]  # fmt: skip
    rows = [
        (f"[{one.name}](#{one.name})", _cell(one.summary), _paper(one.paper),
         "yes" if one.lossless else "no", _cell(one.needs))
        for one in about
    ]  # fmt: skip
    lines += _table(("engine", "what it does", "paper", "lossless", "needs"), rows)
    for one in about:
        lines += ["", f"## {one.name}", "", f"{one.summary} {_paper(one.paper)}", ""]
        lines += _engine_options(one.name)
    return "\n".join(lines) + "\n"


def _engine_options(name: str) -> list[str]:
    from fluoroscope.decoding import engine_class
    from fluoroscope.fields import described_fields

    rows = [
        (f"`{field.name}`", f"`{_cell(str(field.default))}`", _cell(field.meaning))
        for field in described_fields(engine_class(name).Options)
    ]
    return _table(("option", "default", "meaning"), rows)


def _paper(paper: str | None) -> str:
    return f"[arXiv {paper}](https://arxiv.org/abs/{paper})" if paper else ""


def site_page() -> str:
    """Kinds of site, and which listed families have them."""
    from fluoroscope.probes.families import FAMILIES
    from fluoroscope.probes.sites import AXES, LAYER_KINDS

    always = ("resid_pre", "resid_post")
    lines = [
        "# Sites", "",
        "Written from the family tables. [What a site is](../../explanation/sites.md).", "",
        *_table(
            ("site", "axes"),
            [
                *((f"`layers.N.{kind}`", _axes(AXES.get(kind))) for kind in LAYER_KINDS),
                *((f"`{name}`", _axes(AXES.get(name))) for name in ("embed", "final_norm", "logits")),
            ],
        ),
        "", "## Listed architectures", "",
        "`attn.pattern`, `router.logits` and `experts.out` are found by what a layer is made of, so",
        "they are not in this table. A layer without the module has no such site. Architectures that",
        "are not listed are searched by structure when a model is opened.", "",
    ]  # fmt: skip
    rows = [
        (
            f"`{model_type}`",
            _cell(family.name),
            ", ".join(f"`{k}`" for k in (*always, *family.places)),
        )
        for model_type, family in sorted(FAMILIES.items())
    ]
    return (
        "\n".join([*lines, *_table(("config.model_type", "table", "sites from it"), rows)]) + "\n"
    )


def _axes(axes: tuple[str, ...] | None) -> str:
    return ", ".join(axes or ("batch", "positions", "d_model"))


def result_page() -> str:
    """Kinds of result, the command that adds each, and the fields in the file."""
    from fluoroscope.reports.sections import ADDED_BY, RENDERERS

    lines = [
        "# Results", "",
        "Written from the dataclasses. Each is a group `/results/NAME` of a",
        "[run file](../../run-file.md) with an attribute `kind`; arrays are datasets with their axes,",
        "unit and meaning beside them.",
        "The page has a section of its own for most kinds, and a general one for the rest.", "",
    ]  # fmt: skip
    for kind, result in sorted(results().items()):
        adds = ADDED_BY.get(kind)
        lines += ["", f"## {kind}", "", _first_line(result.__doc__), ""]
        own = "a section of its own" if kind in RENDERERS else "the general section"
        lines += [f"Class `{result.__module__}.{result.__name__}`; on the page: {own}."]
        lines += [f"Added by `{adds}`.", ""] if adds else [""]
        rows = []
        for field in dataclasses.fields(result):
            told = field.metadata.get("fluoroscope", {"doc": "", "axes": (), "unit": ""})
            axes = ", ".join(told["axes"])
            rows.append((f"`{field.name}`", axes, _cell(told["unit"]), _cell(told["doc"])))
        lines += _table(("field", "axes", "unit", "meaning"), rows)
    return "\n".join(lines) + "\n"


def results() -> dict[str, Any]:
    """Every kind of result and its class."""
    from fluoroscope.probes import Result

    for module in modules():
        source = (ROOT / _path(module)).read_text(encoding="utf-8")
        if "ClassVar[str]" in source and "Result" in source:
            importlib.import_module(module)
    found: dict[str, Any] = {}
    waiting = list(Result.__subclasses__())
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if isinstance(vars(one).get("kind"), str) and one.__module__.startswith("fluoroscope."):
            found[one.kind] = one
    return found


def errors() -> dict[str, str]:
    """Every public error class of the project, and the module that defines it."""
    found: dict[str, str] = {}
    for module in modules():
        for node in ast.parse((ROOT / _path(module)).read_text(encoding="utf-8")).body:
            named = isinstance(node, ast.ClassDef) and node.name.endswith("Error")
            if named and not node.name.startswith("_"):
                found[node.name] = module
    return found


def modules() -> list[str]:
    """Import names of all modules, room by room."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT / room).with_suffix("").parts
            if "__pycache__" in parts or (parts and parts[0] == "__main__"):
                continue
            names = [part for part in parts if part != "__init__"]
            head = ["fluoroscope"] if room == "fluoroscope" else ["fluoroscope", room]
            found.append(".".join([*head, *names]))
    return found


def _path(module: str) -> Path:
    parts = module.split(".")[1:]
    base = Path(*parts) if parts and parts[0] in ROOMS[:-1] else Path("fluoroscope", *parts)
    return base / "__init__.py" if (ROOT / base).is_dir() else base.with_suffix(".py")


def module_pages() -> dict[str, str]:
    """For each package a page that autodoc fills, and for each room a page that lists them."""
    made: dict[str, str] = {}
    for room in ROOMS:
        packages: dict[str, list[str]] = {}
        for module in modules():
            below = module.split(".")[1:]
            is_own = below[:1] == [room] or (room == "fluoroscope" and below[:1] not in _others())
            if is_own and not set(below) & set(APART) and _defines(module):
                packages.setdefault(_package(module), []).append(module)
        first = _first_line(ast.get_docstring(_tree(_head(room))) or "")
        body = [f"# {room}", "", first, "", "```{toctree}", ":maxdepth: 1", ""]
        body += [f"{package} <api/{package}>" for package in packages]
        made[f"api-{room}"] = "\n".join([*body, "```", ""])
        for package, held in packages.items():
            parts = [f"# {package.removeprefix('fluoroscope.')}", ""]
            for module in held:
                parts += [f"## {module.removeprefix('fluoroscope.')}", "", "```{eval-rst}"]
                parts += [f".. automodule:: {module}", "```", ""]
            made[f"api/{package}"] = "\n".join(parts)
    return made


def _head(room: str) -> str:
    return "fluoroscope" if room == "fluoroscope" else f"fluoroscope.{room}"


def _others() -> list[list[str]]:
    return [[room] for room in ROOMS if room != "fluoroscope"]


def _package(module: str) -> str:
    return module if _path(module).name == "__init__.py" else module.rpartition(".")[0]


def _tree(module: str) -> ast.Module:
    return ast.parse((ROOT / _path(module)).read_text(encoding="utf-8"))


def _defines(module: str) -> bool:
    kinds = ast.FunctionDef | ast.ClassDef
    return any(isinstance(n, kinds) and not n.name.startswith("_") for n in _tree(module).body)


def _first_line(doc: str | None) -> str:
    return _cell((doc or "").strip().split("\n\n")[0])


def _cell(text: str) -> str:
    """A text inside a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cells) + " |"

    return [line(head), line(("---",) * len(head)), *(line(row) for row in rows)]


def pages() -> dict[str, str]:
    """All pages by name, without their ending."""
    return {
        "commands": command_page(),
        "engines": engine_page(),
        "sites": site_page(),
        "results": result_page(),
        **module_pages(),
    }


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / MADE
    wanted = {folder / f"{name}.md": text for name, text in pages().items()}
    for old in set(folder.rglob("*.md")) - wanted.keys():
        old.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for files."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
