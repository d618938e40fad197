"""What must be true of a JSON schema in a request before anything works with it.

Whether a grammar can be made of it is found out where that is done.
"""

import math
from typing import Any

from server.api.http.errors import shown
from server.api.schema.field_path import shown_name
from server.errors import InvalidRequestError
from server.text.tokenizer import LONG_TEXT

MAX_DEPTH = 64
"""Most levels of objects and lists. Deeper ones would exhaust the stack of later recursions."""

_VALUE_LENGTH = 16
"""Characters that take as long as what a value costs beside its text."""


def is_large(*values: object) -> bool:
    """Whether going through JSON values takes longer than a token of another request may wait.
    Finds it out without going through more of them than that."""
    length, left = 0, list(values)
    while left:
        value = left.pop()
        if isinstance(value, str):
            length += len(value)
        elif isinstance(value, dict | list):
            length += _VALUE_LENGTH * len(value)
        if length > LONG_TEXT:
            return True
        if isinstance(value, dict):
            left += (*value.keys(), *value.values())
        elif isinstance(value, list):
            left += value
    return False


def check_object_schema(schema: dict[str, Any], path: str) -> None:
    """Checks a schema of objects, such as a function's parameters.

    Args:
        path: Where the schema is in the request's body.

    Raises:
        InvalidRequestError: it describes no object, is nested too deep, or has text or numbers
            that JSON can't have.
    """
    check_values(schema, path)
    kinds = schema.get("type", "object")
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        _refuse(f"{path}.type", "must be 'object', or a list with it", kinds)
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        _refuse(f"{path}.properties", "must be an object", properties)
    for name, value in properties.items():
        if not isinstance(value, dict | bool):
            _refuse(f"{path}.properties.{shown_name(name)}", "must be a JSON schema", value)
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        _refuse(f"{path}.required", "must be a list of names", required)


def check_values(value: dict[str, Any], path: str) -> None:
    """Checks a JSON object before code works with it that could fail on it.

    Raises:
        InvalidRequestError: it is nested too deep, or has text or numbers that JSON can't have.
    """
    # Level by level: a recursion would itself be what too deep an object breaks.
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inside: list[Any] = []
        for entry in level:
            if isinstance(entry, dict):
                inside.extend((*entry.keys(), *entry.values()))
            elif isinstance(entry, list):
                inside.extend(entry)
            elif isinstance(entry, str):
                _check_utf8(entry, path)
            elif isinstance(entry, float) and not math.isfinite(entry):
                _refuse(path, "must have finite numbers", entry)
        level = inside
    if level:
        message = f"{path}: is nested deeper than {MAX_DEPTH - 1} levels"
        raise InvalidRequestError(message, path)


def _check_utf8(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse(path, "must be valid Unicode", text)


def _refuse(path: str, reason: str, value: object) -> None:
    raise InvalidRequestError(f"{path}: {reason}, got {shown(value)}", path)
