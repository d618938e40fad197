"""A request's body: bytes → a JSON document of bounded size → the route's model.

A body of 4 MB can hold two million values, each of which costs tens of bytes, and where it is wrong
an error that costs a thousand. So the document is measured before it is validated, and validation
ends with the first wrong entry of a list (`schema/fields.py`).
"""

import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from server.api.body.unknown_fields import UnknownFieldLog, drop_unknown
from server.errors import InvalidRequestError

LONG_BODY = 65_536
"""Bytes from which reading a body can take longer than a token."""

MAX_VALUES = 1_000_000
MAX_CONTAINERS = 200_000
"""Most objects and lists of a body."""
MAX_FIELDS = 10_000
"""Most fields of one object."""

_MAX_ROUNDS = 16
"""How often unknown fields are left out of one body before all others are simply ignored."""

_Json = Any


def read_json(body: bytes) -> _Json:
    """Reads a body's JSON.

    Raises:
        RequestValidationError: it is no JSON.
        HTTPException: it is not UTF-8, nested too deep, or has too long a number.
        InvalidRequestError: it has too many values.
    """
    _check_size(body)
    try:
        # UTF-8 alone: `_check_size` counts its bytes.
        document = json.loads(body.decode("utf-8-sig", "surrogatepass"))
    except json.JSONDecodeError as error:
        detail = {
            "type": "json_invalid",
            "loc": ("body", error.pos),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": error.msg},
        }
        raise RequestValidationError([detail]) from None
    except UnicodeDecodeError as error:
        reason = f"is not valid UTF-8 at byte {error.start}"
    except RecursionError:
        reason = "is nested too deep"
    except ValueError:  # Python reads no longer ones, since that takes quadratic time
        reason = "has a number of too many digits"
    else:
        _check_objects(document)
        return document
    raise HTTPException(400, f"the body {reason}")


def _check_size(body: bytes) -> None:
    """Counts the marks between values before any value is built: a million empty lists cost the
    garbage collector alone a second. Marks inside strings are left out only where it matters."""
    if _is_large(body) and _is_large(without_strings(body)):
        raise InvalidRequestError(
            f"the body has too many values; at most {MAX_VALUES}, and {MAX_CONTAINERS} objects and"
            " lists, are read"
        )


def _is_large(body: bytes) -> bool:
    num_containers = body.count(b"[") + body.count(b"{")
    return num_containers > MAX_CONTAINERS or body.count(b",") > MAX_VALUES


def without_strings(body: bytes) -> bytes:
    """What stands outside of quotes, the closing ones included: `{"a":[1]}` → `{":[1]}`."""
    # Without what is escaped, each quote begins or ends a string.
    body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    characters = np.frombuffer(body, np.uint8)
    is_inside = np.logical_xor.accumulate(characters == ord('"'))
    return characters[~is_inside].tobytes()


def _check_objects(document: _Json) -> None:
    left = [document]
    while left:
        container = left.pop()
        if isinstance(container, dict):
            fields = cast("dict[str, _Json]", container)
            if len(fields) > MAX_FIELDS:
                raise InvalidRequestError(
                    f"an object of the body has {len(fields)} fields; at most {MAX_FIELDS} are read"
                )
            values = list(fields.values())
        elif isinstance(container, list):
            values = cast("list[_Json]", container)
        else:
            continue
        left.extend(value for value in values if value.__class__ is dict or value.__class__ is list)


def validated(
    adapter: TypeAdapter[Any], document: _Json, path: str, log: UnknownFieldLog | None
) -> object:
    """Validates a document as the route's model.

    Args:
        path: The URL's path.
        log: Gets the unknown fields, which are then left out; None where they are refused.

    Raises:
        RequestValidationError: it is wrong.
    """
    for _ in range(_MAX_ROUNDS):
        try:
            return adapter.validate_python(document)
        except ValidationError as error:
            errors = _errors(error)
        # More than once, because an error in an outer object can hide those of an inner one.
        if log is None or not drop_unknown(errors, document, path, log):
            raise RequestValidationError(errors, body=document)
    try:
        # Enough of them have been logged: the rest is ignored.
        return adapter.validate_python(document, extra="ignore")
    except ValidationError as error:
        raise RequestValidationError(_errors(error), body=document) from None


def _errors(error: ValidationError) -> list[Mapping[str, Any]]:
    """The errors in FastAPI's form."""
    return [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
