"""What must be true of a JSON schema in a request before anything works with it.

Whether a grammar can be made of it is found out where that is done.
"""

import math
from typing import Any

from server.api.errors import shown
from server.api.field_path import MAX_NAME
from server.errors import InvalidRequestError

MAX_DEPTH = 64
"""Objects and lists within each other. Deeper ones would exhaust the stack of whoever follows."""


def check_object_schema(schema: dict[str, Any], path: str) -> None:
    """Checks a schema of objects, such as a function's parameters.

    Args:
        path: Of the schema in the request's body.

    Raises:
        InvalidRequestError: it describes no object, is nested too deep, or has text or numbers
            that JSON can't have.
    """
    _check_values(schema, path)
    if schema.get("type", "object") != "object":
        _refuse(f"{path}.type", "must be 'object'", schema["type"])
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        _refuse(f"{path}.properties", "must be an object", properties)
    for name, value in properties.items():
        if not isinstance(value, dict | bool):
            _refuse(f"{path}.properties.{name[:MAX_NAME]}", "must be a JSON schema", value)
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        _refuse(f"{path}.required", "must be a list of names", required)


def _check_values(schema: dict[str, Any], path: str) -> None:
    """Level by level: a recursion would itself be what too deep a schema breaks."""
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inside.extend((*value.keys(), *value.values()))
            elif isinstance(value, list):
                inside.extend(value)
            elif isinstance(value, str):
                _check_utf8(value, path)
            elif isinstance(value, float) and not math.isfinite(value):
                _refuse(path, "must have finite numbers", value)
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
