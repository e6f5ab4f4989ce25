"""``--help``: every default is visible, every option is in its panel, and no bracket is read as markup."""

import inspect
import os
import re
import subprocess
import sys
from dataclasses import asdict
from typing import Annotated, get_type_hints

import pytest
import typer
from typer.models import OptionInfo
from typer.testing import CliRunner

import morality_lens
from morality_lens.cli import main
from morality_lens.cli.commands import PANEL_OF, PANELS, Command
from morality_lens.cli.run_config import RunConfig
from morality_lens.cli.study_config import StudyConfig
from morality_lens.design import Protocol

FUNCTIONS = {name: command for panel in main.COMMANDS.values() for name, command in panel.items()}
WRITTEN_OTHERWISE = {"directions": "direction", "judges": "judge", "template_keywords": "template"}


@pytest.fixture
def help_of(command, monkeypatch):
    """A function that gives the lines of a command's help, wide enough for every option to have one line."""
    monkeypatch.setenv("COLUMNS", "400")

    def lines(*names: str) -> list[str]:
        code, out, _ = command(*names, "--help")
        assert code == 0
        return [" ".join(line.strip("│ ").split()) for line in out.splitlines()]

    return lines


def shown(lines: list[str], option: str) -> str:
    (line,) = (line for line in lines if re.match(rf"(\* )?--{option}( |,|$)", line))
    return line


def written(option: str, about: OptionInfo) -> str:
    """How an option is written on the command line."""
    first = (about.param_decls or (f"--{option}",))[0] if about.default is ... else str(about.default)
    return first.partition("/")[0].removeprefix("--").replace("_", "-")


def defaults(name: str) -> dict[str, str]:
    """The options of a command that have a default, and what their help must show."""
    function = FUNCTIONS[name]
    found: dict[str, str] = {}
    for option, parameter in inspect.signature(function).parameters.items():
        told = [
            one for one in getattr(parameter.annotation, "__metadata__", ()) if isinstance(one, OptionInfo)
        ]
        if told and isinstance(told[0].show_default, str):
            found[written(option, told[0])] = told[0].show_default
        elif told and parameter.default not in (None, False, inspect.Parameter.empty):
            found[written(option, told[0])] = str(parameter.default)
    return found


def configured(config: RunConfig | StudyConfig) -> dict[str, object]:
    """The entries of a configuration by the names of their options, where they have a value."""
    plain = config.plain()
    limits = {f"{name}_tokens": n for name, n in asdict(Protocol().limits).items()}
    held = {**plain, **plain.pop("protocol"), **limits}
    held |= {"rounds": Protocol().design.rounds} if isinstance(config, RunConfig) else {}
    return {
        WRITTEN_OTHERWISE.get(name, name): one for name, one in held.items() if one not in (None, {}, [], "")
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_default_of_every_command_is_in_its_help(help_of, name):
    lines = help_of(name)
    for option, default in defaults(name).items():
        default = option if default == "True" else default  # a switch shows its name
        assert f"[default: {default}]" in shown(lines, option), option


@pytest.mark.parametrize(("name", "config"), [("run", RunConfig()), ("study", StudyConfig())])
def test_the_help_shows_the_defaults_of_the_configuration(help_of, name, config):
    lines, options = help_of(name), inspect.signature(FUNCTIONS[name]).parameters
    checked = 0
    for option, value in configured(config).items():
        if option in options and value is not False:
            assert f"[default: {value}" in shown(lines, option.replace("_", "-")), option
            checked += 1
    assert checked >= 9


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_option_of_every_command_is_in_a_panel(help_of, name):
    lines = help_of(name)
    titles = [found[1] for line in lines if (found := re.match(r"╭─ (.*?) ─", line))]
    assert "Options" not in titles
    assert titles == [title for title in ("Arguments", *PANELS) if title in titles]
    options = {
        option for option in FUNCTIONS[name].__annotations__ if f"--{option.replace('_', '-')}" in str(lines)
    }
    assert options <= set(PANEL_OF)


def test_square_brackets_in_texts_are_shown_as_they_are():
    app = typer.Typer()

    @app.command(cls=Command)
    def show(size: Annotated[int, typer.Option(help="Between [.08, .20], or [bold]x[/bold].")] = 3) -> None:
        """Rows are [{"effect": 1}], see [dim]below[/dim]."""

    out = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for text in (
        "Between [.08, .20], or [bold]x[/bold].",
        "[default: 3]",
        '[{"effect": 1}], see [dim]below[/dim].',
    ):
        assert text in out


def test_the_version_is_printed_in_both_ways(command):
    assert command("--version") == (0, f"morality-lens {morality_lens.__version__}\n", "")
    done = subprocess.run(
        [sys.executable, "-m", "morality_lens", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"morality-lens {morality_lens.__version__}\n"


def test_completion_can_be_shown_and_completes_the_commands():
    program = "import sys; sys.argv = ['morality-lens']; from morality_lens.cli.main import main; main()"
    asked = {"_MORALITY_LENS_COMPLETE": "complete_bash", "COMP_WORDS": "morality-lens st", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **asked},
    )
    assert done.stdout.split() == ["study"], done.stderr[-500:]


def test_options_have_types_that_a_command_line_can_read():
    for name, function in FUNCTIONS.items():
        assert get_type_hints(function, include_extras=True), name
