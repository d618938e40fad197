"""Pydantic's error locations → places in the body that was sent."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from server.api.schema.fields import is_branch

_OF_KEY = "[key]"
"""Ends a location where an object's key itself is at fault, and not what it has."""


class Step(NamedTuple):
    """One level down into a JSON document: `container[key]`."""

    container: dict[str, Any] | list[Any]
    key: str | int


def steps(location: Sequence[str | int], body: Any) -> list[Step]:
    """The way to a location, without the names of union branches, which the body doesn't have.

    ("messages", 0, "content", "<branch list>", 0, "text") → the keys "messages", 0, "content", 0,
    "text"; the last one may be missing in the body.
    """
    way: list[Step] = []
    for number, part in enumerate(location, start=1):
        is_field = number == len(location) and part != _OF_KEY and not is_branch(part)
        if isinstance(body, dict) and (part in body or is_field):
            way.append(Step(body, part))
            body = body.get(part)
        elif isinstance(body, list) and isinstance(part, int) and part < len(body):
            way.append(Step(body, part))
            body = body[part]
    return way


MAX_NAME = 80
"""Characters of a field's name that are sent back."""


def shown_name(name: str) -> str:
    """A client's name as it can be sent back: short, and without half surrogates."""
    return name.encode(errors="backslashreplace").decode()[:MAX_NAME]


def field_path(location: Sequence[str | int], body: Any) -> list[str]:
    """The names on the way to a location, as text that can be sent back."""
    return [shown_name(str(step.key)) for step in steps(location, body)]
