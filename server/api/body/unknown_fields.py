"""Request fields that no schema knows: refused, or left out with a warning.

The schemas refuse them, at any depth (`schema/fields.py`). Leaving them out is done
here, once one was refused, so that requests without unknown fields cost nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from server.api.schema.field_path import Step, field_path, steps

_logger = logging.getLogger(__name__)

_MAX_REMEMBERED = 1000
"""Clients can invent names without end; neither the memory nor the log may follow."""


class UnknownFieldLog:
    """Logs each unknown field once."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def add(self, path: str, field: str) -> None:
        """Logs an unknown field, once per path.

        Args:
            path: The URL's path.
            field: Such as `messages.*.mood`.
        """
        if (path, field) in self._seen or len(self._seen) >= _MAX_REMEMBERED:
            return
        self._seen.add((path, field))
        _logger.warning("%s: unknown field %s was left out", path, ascii(field))


def drop_unknown(
    errors: Sequence[Mapping[str, Any]], body: Any, path: str, log: UnknownFieldLog
) -> int:
    """Removes the unknown fields that `errors` name from the body; returns how many there were."""
    num_dropped = 0
    for entry in errors:
        if entry["type"] != "extra_forbidden":
            continue
        location = entry["loc"][1:]
        way = steps(location, body)
        # It is always there; if it were not, the next validation would find it again.
        if way and isinstance(way[-1].container, dict) and way[-1].key in way[-1].container:
            log.add(path, _general_name(way, field_path(location, body)))
            del way[-1].container[str(way[-1].key)]
            num_dropped += 1
    return num_dropped


def _general_name(way: list[Step], names: list[str]) -> str:
    """All entries of a list are one field: `messages.*.mood`."""
    return ".".join(
        "*" if isinstance(step.container, list) else name
        for step, name in zip(way, names, strict=True)
    )
