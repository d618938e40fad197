"""Request fields that no schema knows: refused, or left out with a warning.

The schemas refuse them, at any depth (`schemas/fields.py`). Leaving them out is done here, once one
was refused: requests without unknown fields cost nothing.
"""

import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from server.api.field_path import Step, field_path, steps
from server.api.receiving import body_message, replayed

_logger = logging.getLogger(__name__)

_MAX_REMEMBERED = 1000
"""Clients can invent names without end; neither the memory nor the log may follow."""


class UnknownFieldLog:
    """Logs each unknown field once."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def add(self, path: str, field: str) -> None:
        """
        Args:
            path: Of the URL.
            field: Such as `messages.*.mood`.
        """
        if (path, field) in self._seen or len(self._seen) >= _MAX_REMEMBERED:
            return
        self._seen.add((path, field))
        _logger.warning("%s: unknown field %s was left out", path, ascii(field))


class BodyRoute(APIRoute):
    """A route whose body may have unknown fields, if the app says so: it does by an
    `UnknownFieldLog` in `app.state.unknown_fields`, and refuses them by None."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        strict = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await strict(request)
            except RequestValidationError as error:
                log: UnknownFieldLog | None = request.app.state.unknown_fields
                if log is None:
                    raise
                return await _without_unknown(strict, request, error, log)

        return handle


async def _without_unknown(
    strict: Callable[[Request], Coroutine[Any, Any, Response]],
    request: Request,
    error: RequestValidationError,
    log: UnknownFieldLog,
) -> Response:
    """Validates again without the unknown fields. More than once, because an error in an outer
    object can hide those of an inner one; each time at least one field goes.

    Raises:
        RequestValidationError: something else is wrong too.
    """
    while _drop_unknown(error, request.url.path, log):
        message = body_message(json.dumps(error.body).encode())
        try:
            return await strict(Request(request.scope, replayed([message], request.receive)))
        except RequestValidationError as another:
            error = another
    raise error


def _drop_unknown(error: RequestValidationError, path: str, log: UnknownFieldLog) -> int:
    """Removes the unknown fields from the error's body; returns how many there were."""
    num_dropped = 0
    for entry in error.errors():
        if entry["type"] != "extra_forbidden":
            continue
        location = entry["loc"][1:]
        way = steps(location, error.body)
        # Always there, but if it were not, the loop over this would never end.
        if way and isinstance(way[-1].container, dict) and way[-1].key in way[-1].container:
            log.add(path, _general_name(way, field_path(location, error.body)))
            del way[-1].container[str(way[-1].key)]
            num_dropped += 1
    return num_dropped


def _general_name(way: list[Step], names: list[str]) -> str:
    """All entries of a list are one field: `messages.*.mood`."""
    return ".".join(
        "*" if isinstance(step.container, list) else name
        for step, name in zip(way, names, strict=True)
    )
