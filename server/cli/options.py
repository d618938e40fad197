"""Command-line options derived from the settings, so that a setting is described in one place."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from pydantic.fields import FieldInfo

from server.config import GROUPS, ModelSettings, load_settings
from server.setting_types import Repeatable
from weights.model_names import check_draft_name, check_model_name

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
            settings = load_settings(cls, **given)
            check_names(settings)
            command(settings, **arguments)

        options, group = list[inspect.Parameter](), ""
        for name, field in cls.model_fields.items():
            group = GROUPS.get(name, group)
            options.append(_option(name, field, group))
        run.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
            [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *options]
        )
        return run

    return decorate


def check_names(settings: ModelSettings) -> None:
    """Checks the names of model and draft before torch is imported, which takes seconds.

    Raises:
        StartupError: there is no such model or draft.
    """
    check_model_name(settings.model)
    check_draft_name(settings.draft)


def _given(value: object) -> object:
    """A repeatable option without an entry counts as not given: None leaves the setting to the
    environment."""
    return None if value == [] else value


def _option(name: str, field: FieldInfo, group: str) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    is_switch = field.annotation is bool
    is_repeatable = any(isinstance(mark, Repeatable) for mark in field.metadata)
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if is_switch else flag,
        help=f"{field.description}{_default(flag, field)}",
        show_default=False,
        rich_help_panel=group,
        metavar=None if is_switch else _metavar(field),
    )
    kind: Any = bool if is_switch else list[str] if is_repeatable else str
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _default(flag: str, field: FieldInfo) -> str:
    """The default as one would type it. Where there is none, the setting's help says what
    happens."""
    default = field.default
    if isinstance(default, bool):
        return f"  [default: {flag if default else f'--no-{flag[2:]}'}]"
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    return "" if default in (None, "") else f"  [default: {default}]"


def _metavar(field: FieldInfo) -> str:
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    text = str(field.annotation)
    for kind, shown in (
        ("tuple[int, int]", "MIN:MAX"),
        ("float", "NUMBER"),
        ("int", "INTEGER"),
        ("Path", "PATH"),
    ):
        if kind in text:
            return shown
    return "TEXT"
