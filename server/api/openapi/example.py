"""What an example of the OpenAPI document is."""

from dataclasses import dataclass, field
from typing import Any

_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """Example of one operation."""

    response: _Json
    requests: dict[str, _Json] = field(default_factory=dict[str, _Json])
    """By name; none where there is no body."""
    stream: str | None = None
