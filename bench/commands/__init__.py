"""The commands of `glidecape` that measure: `bench`, `eval`, and `data`, which fetches its sets.

The entry point `glidecape.commands` in pyproject.toml names `register`. So the command line knows
nothing of benchmarks, and a package that is installed beside this one can add commands likewise.
What takes long to import, torch included, is imported by the commands that need it.
"""

import typer

from bench.commands.data import data
from bench.commands.evaluate import evaluate
from bench.commands.measure import bench_app
from server.cli.help import HELP_NAMES, Command


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(cls=Command, context_settings=HELP_NAMES)(data)
    # eval is a name of Python's own.
    app.command("eval", cls=Command, context_settings=HELP_NAMES)(evaluate)
    app.add_typer(bench_app())
