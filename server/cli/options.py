"""Command-line options derived from the settings, so that a setting is described in one place."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from pydantic.fields import FieldInfo

from server.config import ModelSettings, Repeatable, load_settings

S = TypeVar("S", bound=ModelSettings)


def with_settings(cls: type[S]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds an option per field of a settings class to a command; the command gets them, merged
    with the environment and validated, as its first argument.

    Options are passed on as text: pydantic reads and checks them, as it does the environment's.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())[1:]

        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            given = {name: _given(arguments.pop(name)) for name in cls.model_fields}
            command(load_settings(cls, **given), **arguments)

        options = [_option(name, field) for name, field in cls.model_fields.items()]
        run.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
            [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *options]
        )
        return run

    return decorate


def _given(value: object) -> object:
    """None, which leaves the setting to the environment, also for a repeatable option without an
    entry."""
    return None if value == [] else value


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    is_switch = field.annotation is bool
    is_repeatable = any(isinstance(mark, Repeatable) for mark in field.metadata)
    default = field.default
    if is_switch:
        shown: str | bool = flag.removeprefix("--") if default else f"no-{flag[2:]}"
    else:
        shown = False if default in (None, ()) else str(default)
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if is_switch else flag,
        help=field.description,
        show_default=shown,
        metavar=None if is_switch else _metavar(field),
    )
    kind: Any = bool if is_switch else list[str] if is_repeatable else str
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _metavar(field: FieldInfo) -> str:
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    text = str(field.annotation)
    for kind, shown in (("float", "NUMBER"), ("int", "INTEGER"), ("Path", "PATH")):
        if kind in text:
            return shown
    return "TEXT"
