"""--help of all commands: plain text in groups. typer's own pages, in frames, cut long names off at
80 columns.
"""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_NAMES_WIDTH = 24
"""Columns for the names of options; a longer one has its help in the line below."""
HELP_NAMES = {"help_option_names": ["-h", "--help"]}


# Contexts and formatters are typer's own copies of click's, which it doesn't export.
class Command(TyperCommand):
    """A command whose options stand below the headings that they were declared with."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_groups(self, ctx, formatter)


class Group(TyperGroup):
    """Commands below a command, and its own options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_groups(self, ctx, formatter)
        self.format_commands(ctx, formatter)


def _write_groups(command: TyperCommand | TyperGroup, ctx: Any, formatter: Any) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
        # `get_params` ends with --help, which belongs to the command's own options.
        name = getattr(parameter, "rich_help_panel", None) or kind
        groups.setdefault(name, []).append(record)
    for name in sorted(groups, key=lambda name: name not in ("Arguments", "Options")):
        with formatter.section(name):
            formatter.write_dl(groups[name], col_max=_NAMES_WIDTH)


def make_typer(**options: Any) -> typer.Typer:
    """A typer whose pages are written here."""
    return typer.Typer(cls=Group, rich_markup_mode=None, context_settings=HELP_NAMES, **options)
