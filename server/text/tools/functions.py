"""Function tools and calls of them, as the text layer knows them: no API's JSON shapes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function that the model may ask its client to call."""

    name: str
    """1 to 128 of `a-z A-Z 0-9 _ -`: needs no escaping anywhere."""
    description: str = ""
    parameters: JsonObject = field(default_factory=dict[str, Any])
    """JSON schema of the arguments, which are always an object; empty for no arguments."""
    strict: bool = False
    """Arguments must follow the schema wherever the model calls it of its own accord."""


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call as the model wrote it."""

    call_id: str
    name: str
    arguments: str
    """JSON; but a model may break off, or make mistakes, where no grammar keeps it from that."""
