"""Streams in the OpenAPI document: what an event's data may be.

FastAPI can describe only those that it frames itself. As there, `itemSchema` (OpenAPI 3.2, unknown
to older readers) describes one event.
"""

from typing import Any

from pydantic import BaseModel

from server.api.schemas.chat import ChatChunk
from server.api.schemas.completion import Completion

_Json = dict[str, Any]

_CHUNKS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatChunk,
    "/v1/completions": Completion,
}
_RESPONSES = "/v1/responses"
_PREFIX = "#/components/schemas/"


def describe_stream(document: _Json, path: str, example: str | None) -> None:
    """Adds a stream to the answers of an operation that has one.

    Args:
        document: Whose components get the chunk's schema.
    """
    if path == _RESPONSES:  # more than twenty kinds of events, which docs/api.md names
        stream: _Json = {"schema": {"type": "string"}, "example": example}
        document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"] = stream
    chunk = _CHUNKS.get(path)
    if chunk is None:
        return
    schema = chunk.model_json_schema(mode="serialization", ref_template=f"{_PREFIX}{{model}}")
    components: _Json = document["components"]["schemas"]
    for name, inside in schema.pop("$defs").items():
        components.setdefault(name, inside)
    components.setdefault(chunk.__name__, schema)
    content: _Json = document["paths"][path]["post"]["responses"]["200"]["content"]
    content["text/event-stream"] = {"itemSchema": _event(chunk.__name__), "example": example}


def _event(name: str) -> _Json:
    """A chunk, at last `[DONE]`; or an error, after which nothing comes."""
    documents = [{"$ref": f"{_PREFIX}{each}"} for each in (name, "ErrorBody")]
    data = [
        {"const": "[DONE]"},
        {"contentMediaType": "application/json", "contentSchema": {"anyOf": documents}},
    ]
    return {
        "type": "object",
        "properties": {"data": {"type": "string", "anyOf": data}},
        "required": ["data"],
    }
