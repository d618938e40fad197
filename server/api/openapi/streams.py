"""Streams in the OpenAPI document: what an event's data may be.

FastAPI can describe only those that it frames itself. As there, `itemSchema` (OpenAPI 3.2, unknown
to older readers) describes one event.
"""

from typing import Any

from pydantic import TypeAdapter

from server.api.chat.schema import ChatChunk
from server.api.completions.schema import Completion
from server.api.responses.schema.events import Event

_Json = dict[str, Any]

_DONE: _Json = {"const": "[DONE]"}
_CHUNKS: dict[str, tuple[str, TypeAdapter[Any], tuple[_Json, ...]]] = {
    "/v1/chat/completions": ("ChatChunk", TypeAdapter(ChatChunk), (_DONE,)),
    "/v1/completions": ("Completion", TypeAdapter(Completion), (_DONE,)),
    "/v1/responses": ("ResponseEvent", TypeAdapter(Event), ()),
}
"""Path → name and type of what its events carry, and what else their data may be."""
_PREFIX = "#/components/schemas/"


def describe_stream(document: _Json, path: str, example: str | None) -> None:
    """Adds a stream to the answers of an operation that has one.

    Args:
        document: Whose components get the chunk's schema.
    """
    if path not in _CHUNKS:
        return
    name, chunk, others = _CHUNKS[path]
    schema = chunk.json_schema(mode="serialization", ref_template=f"{_PREFIX}{{model}}")
    components: _Json = document["components"]["schemas"]
    for inside_name, inside in schema.pop("$defs").items():
        components.setdefault(inside_name, inside)
    components.setdefault(name, schema)
    content: _Json = document["paths"][path]["post"]["responses"]["200"]["content"]
    content["text/event-stream"] = {"itemSchema": _event(name, others), "example": example}


def _event(name: str, others: tuple[_Json, ...]) -> _Json:
    """A document, or an error, after which nothing comes."""
    documents = [{"$ref": f"{_PREFIX}{each}"} for each in (name, "ErrorBody")]
    document = {"contentMediaType": "application/json", "contentSchema": {"anyOf": documents}}
    return {
        "type": "object",
        "properties": {"data": {"type": "string", "anyOf": [*others, document]}},
        "required": ["data"],
    }
