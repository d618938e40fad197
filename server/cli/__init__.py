"""The `glidecape` command: parses arguments, prints for people, exits.

Other packages add commands by an entry point of the group `glidecape.commands`: a function that is
given the typer app. `bench` does.

What is wrong with settings, files or ports ends in one line on stderr and exit code 2.
"""

from importlib.metadata import entry_points
from typing import Annotated

import typer

from server import __version__
from server.cli.chat.chat import chat
from server.cli.convert import convert
from server.cli.generate import generate
from server.cli.help import HELP_NAMES, Command, make_typer
from server.cli.serve import serve
from server.cli.terminal import one_line_errors, report
from server.cli.train import train


def make_app() -> typer.Typer:
    """Makes the command with its own subcommands and those of other packages."""
    app = make_typer(
        name="glidecape",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for command in (serve, generate, chat, convert, train):
        app.command(cls=Command, context_settings=HELP_NAMES)(command)
    app.callback()(_version_option)
    for entry_point in entry_points(group="glidecape.commands"):
        try:
            entry_point.load()(app)
        except Exception as error:  # whatever another package's import raises
            report(f"the commands of {entry_point.value} can't be loaded: {error}")
    return app


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"glidecape {__version__}")
        raise typer.Exit


def _version_option(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """OpenAI-compatible inference server with GliDe + CaPE speculative decoding."""


def main() -> None:
    """Entry point of the `glidecape` script."""
    with one_line_errors("glidecape"):
        make_app()()
