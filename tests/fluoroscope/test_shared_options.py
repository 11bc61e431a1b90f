"""What every command shares: configuration and log files, colours, plain tables, help pages."""

import json
import logging
import re
import shlex
from pathlib import Path

import pytest
import typer
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from fluoroscope.cli import COMMANDS, app
from fluoroscope.logfile import LogFile
from fluoroscope.progress import Tracker
from fluoroscope.running import BAD_INPUT, BUG, DONE, USAGE, Terminal, command
from fluoroscope.terminal import as_lines

NAMES = [function.__name__ for function in COMMANDS]


def examples(name: str) -> list[list[str]]:
    """The example commands that end a command's help page, as a shell would split them."""
    function = next(function for function in COMMANDS if function.__name__ == name)
    lines = re.findall(r"^\s*Example: (.*)$", function.__doc__ or "", re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.fixture
def tool() -> typer.Typer:
    """Two commands that tell the options they got."""
    made = typer.Typer()

    def read(terminal: Terminal, *, tokens: int = 8, sites: list[str] | None = None) -> dict:
        """Read."""
        terminal.say("reading")
        return {"tokens": tokens, "sites": sites}

    def fail(terminal: Terminal, *, size: int = 1) -> None:
        """Fail."""
        import logging
        import warnings

        warnings.warn("odd", RuntimeWarning, stacklevel=1)
        logging.getLogger("library").info("detail %d", size)
        raise ZeroDivisionError("oh")

    command(made, read)
    command(made, fail)
    return made


def result(tool: typer.Typer, *args: object) -> dict:
    done = CliRunner().invoke(tool, [*map(str, args), "--json"])
    assert done.exit_code == DONE, done.output
    return json.loads(done.stdout)["result"]


@pytest.mark.parametrize("name", NAMES)
def test_every_help_page_ends_with_two_commands_that_parse(name: str) -> None:
    """Parsed, not run, by the command itself: an option that was renamed or removed fails here."""
    shown = CliRunner().invoke(app, [name, "--help"], terminal_width=200).output
    last = shown.rstrip().splitlines()[-4:]
    assert sum("Example: " in line for line in last) == 2, last
    assert len(examples(name)) == 2
    group = typer.main.get_command(app)
    for words in examples(name):
        assert words[:2] == ["fluoroscope", name]
        context = group.commands[name].make_context(name, words[2:], parent=typer.Context(group))
        assert context.params


@pytest.mark.parametrize("name", NAMES)
def test_every_option_says_what_it_is(name: str) -> None:
    group = typer.main.get_command(app)
    for parameter in group.commands[name].params:
        text = getattr(parameter, "help", None)
        assert text, f"{name} {parameter.name} has no help"
        assert len(text.split()) >= 2, f"{name} {parameter.name}: {text!r} teaches nothing"


def test_command_line_beats_table_beats_shared_keys_beats_default(
    tool: typer.Typer, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('tokens = 10\nsize = 3\n[read]\nsites = ["a", "b"]\n')
    assert result(tool, "read") == {"tokens": 8, "sites": None}
    assert result(tool, "read", "--config", file) == {"tokens": 10, "sites": ["a", "b"]}
    file.write_text('tokens = 10\n[read]\ntokens = 20\nsites = ["a"]\n')
    assert result(tool, "read", "--config", file)["tokens"] == 20
    assert result(tool, "read", "--tokens", 30, "--config", file)["tokens"] == 30
    assert result(tool, "read", "--sites", "c", "--config", file)["sites"] == ["c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokns = 1", "no command has an option 'tokns'. Did you mean: tokens?"),
        ("[read]\nsize = 1", "`read` has no option 'size'"),
        ("[raed]\ntokens = 1", "no command 'raed'. Did you mean: read?"),
        ("[read]\ntokens = 'many'", "parse string as an integer"),
        ("tokens =", "must be a TOML file"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(
    tool: typer.Typer, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    done = CliRunner().invoke(tool, ["read", "--config", str(file)], terminal_width=300)
    assert done.exit_code == USAGE
    assert message in " ".join(re.sub(r"[│\n]", " ", done.output).split())
    missing = CliRunner().invoke(tool, ["read", "--config", str(tmp_path / "none.toml")])
    assert missing.exit_code == USAGE


def test_the_log_file_holds_the_whole_story(tool: typer.Typer, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    CliRunner().invoke(tool, ["read", "--log-file", str(log), "--quiet"])
    done = CliRunner().invoke(tool, ["fail", "--log-file", str(log), "--log-format", "json"])
    assert done.exit_code == BUG
    lines = log.read_text().splitlines()
    assert " info     reading" in lines[1]
    assert "end" in lines[2]
    assert "code=0" in lines[2]
    entries = [json.loads(line) for line in lines[3:]]
    assert [entry["level"] for entry in entries] == ["start", "info", "error", "warning", "end"]
    assert entries[1]["message"] == "detail 1"
    assert entries[1]["logger"] == "library"
    assert "ZeroDivisionError: oh" in entries[2]["message"]
    assert "Traceback" in entries[2]["message"]
    assert entries[3]["message"] == "odd"
    assert entries[4]["code"] == BUG
    denied = CliRunner().invoke(tool, ["read", "--log-file", str(log / "below" / "x.log")])
    assert denied.exit_code == USAGE


def test_verbosity_shows_tracebacks_and_libraries(tool: typer.Typer) -> None:
    quiet = CliRunner().invoke(tool, ["fail"])
    assert "Traceback" not in quiet.stderr
    assert "ZeroDivisionError: oh" in quiet.stderr
    loud = CliRunner().invoke(tool, ["fail", "-v"])
    assert "Traceback" in loud.stderr
    assert "test_shared_options.py" in loud.stderr
    assert "detail 1" not in loud.stderr


def test_what_the_package_itself_logs_is_a_remark_or_a_warning(tmp_path: Path) -> None:
    """Once on standard error and once in the log file; --quiet silences it, --json carries warnings."""
    made = typer.Typer()

    def work(terminal: Terminal) -> None:
        """Work."""
        logging.getLogger("fluoroscope.room").info("measuring %s", "this")
        logging.getLogger("fluoroscope.room").warning("goes on without")

    command(made, work)
    loud = CliRunner().invoke(made, ["--log-file", str(tmp_path / "l")])
    assert loud.stderr.splitlines() == ["measuring this", "warning: goes on without"]
    written = (tmp_path / "l").read_text()
    assert written.count("measuring this") == written.count("goes on without") == 1
    assert CliRunner().invoke(made, ["--quiet"]).output == ""
    document = json.loads(CliRunner().invoke(made, ["--json"]).stdout)
    assert document["warnings"] == ["goes on without"]
    assert not logging.getLogger("fluoroscope").handlers


def test_progress_tells_rate_and_what_is_left(tmp_path: Path, monkeypatch) -> None:
    from io import StringIO

    from rich.console import Console

    clock = iter([0.0, 1.0, 12.0, 13.0, 30.0])
    monkeypatch.setattr("fluoroscope.progress.time.monotonic", lambda: next(clock))
    log = LogFile(tmp_path / "p.log")
    out = StringIO()
    tracker = Tracker("Reading", "tokens", Console(file=out, force_terminal=False), log)
    for done in (100, 240, 260, 600):
        tracker(done, 1000, "[b]note")
    tracker.close()
    lines = out.getvalue().splitlines()
    written = (tmp_path / "p.log").read_text()
    assert lines == [
        "Reading: 240 of 1,000 tokens, 13 tokens/s, 60 s left ([b]note)",
        "Reading: 600 of 1,000 tokens, 17 tokens/s, 23 s left ([b]note)",
    ], "nothing before 2 s, a line every 10 s"
    assert [line.split("progress ")[1] for line in written.splitlines()] == lines


def test_names_and_tokens_are_no_markup_and_steer_no_terminal() -> None:
    """A path with brackets, a chat template's token, an emoji's name, an escape sequence."""
    from io import StringIO

    odd = "out[1].h5 [/INST] [b]x :fire: \x1b]0;title \u202egnol"
    shown = "out[1].h5 [/INST] [b]x :fire: \ufffd]0;title \ufffdgnol"
    for forced in (True, False):
        terminal = Terminal()
        terminal.out.file = terminal.err.file = out = StringIO()
        terminal.out._force_terminal = terminal.err._force_terminal = forced
        table = Table("[/head]", title="[/title]")
        table.add_row("[/cell]")
        for renderable in (odd, Text(odd, "bold"), table):
            terminal.show(renderable)
        terminal.say(odd)
        terminal.warn(odd)
        written = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())
        assert written.count(shown) == 4, forced
        assert "[/head]" in written
        assert "[/cell]" in written


def test_tables_are_plain_where_nobody_looks() -> None:
    table = Table("a", "b", title="t")
    table.add_row(Text("1", "red"), "x\ny" + "z" * 300)
    assert as_lines(table) == ["a\tb", "1\tx; y" + "z" * 300]
    bare = Table("a", "b", show_header=False)
    bare.add_row("k", "v")
    assert as_lines(bare) == ["k\tv"]


def test_colours_can_be_switched_off(monkeypatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Terminal(no_color=True).out.no_color
    assert not Terminal().out.no_color
    monkeypatch.setenv("NO_COLOR", "1")
    assert Terminal().out.no_color


def test_a_piped_report_and_a_pdf_do_not_mix(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path / "x.h5"), "-o", "-", "--pdf"])
    assert done.exit_code == BAD_INPUT
    assert "leave out --pdf" in done.stderr


def test_the_version_is_told_and_the_tour_is_the_help() -> None:
    from importlib.metadata import version

    assert CliRunner().invoke(app, ["--version"]).stdout.strip() == version("fluoroscope")
    bare = CliRunner().invoke(app, [])
    assert "fluoroscope xray" in bare.output
    assert "fluoroscope doctor" in bare.output


LONG = ("xray", "capture", "lens")
"""Commands whose examples take minutes: planned with --dry-run instead of run."""


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.timeout(1200)
def test_the_examples_run_as_typed_after_the_demo(embedded, tmp_path: Path, monkeypatch) -> None:
    """`make demo` leaves out/run.h5; a small one of several documents stands in for it. Examples run in
    order, in a row."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("Hidden states are vectors. " * 40)
    for number in range(12):
        code = f"def f{number}(x):\n    return x + {number}  # add a number\n\n" * 8
        (tmp_path / f"{number}.py").write_text(code)
    (tmp_path / "out").mkdir()
    small = [
        "xray",
        "-t",
        ".",
        "-n",
        "2048",
        "-o",
        "out/run.h5",
        "--report",
        "out/report.html",
        "-q",
    ]
    assert CliRunner().invoke(app, small).exit_code == DONE
    for name in NAMES:
        for words in examples(name):
            if name == "distil" and "--steps" not in words:
                continue  # the whole job, minutes; its second example is the same command, smaller
            plan = ["--dry-run"] if name in LONG and "--dry-run" not in words else []
            done = CliRunner().invoke(app, [*words[1:], *plan])
            assert done.exit_code == DONE, (words, done.output)
