"""The `glidecape` command: parses arguments, prints for people, exits.

What is wrong with settings, files or ports ends in one line on stderr and exit code 2.
"""

import typer

from server.cli.chat import chat
from server.cli.convert import convert
from server.cli.evaluate import evaluate
from server.cli.generate import generate
from server.cli.measure import bench_app
from server.cli.serve import serve
from server.cli.terminal import one_line_errors
from server.cli.train import train


def make_app() -> typer.Typer:
    """All commands."""
    app = typer.Typer(
        name="glidecape",
        help="OpenAI-compatible inference server with GliDe + CaPE speculative decoding.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for command in (serve, generate, chat, convert, train):
        app.command()(command)
    app.add_typer(bench_app())
    app.command("eval")(evaluate)  # eval is a name of Python's own
    return app


def main() -> None:
    """Entry point of the `glidecape` script."""
    with one_line_errors("glidecape"):
        make_app()()
