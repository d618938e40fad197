"""What the OpenAPI document shows of an operation."""

from dataclasses import dataclass, field
from typing import Any

_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """Example of one operation."""

    response: _Json
    requests: dict[str, _Json] = field(default_factory=dict[str, _Json])
    """Bodies by name; none where there is no body."""
    stream: str | None = None
