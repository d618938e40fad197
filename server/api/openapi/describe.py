"""The OpenAPI document: what FastAPI derives from the routes, and what it can't know: the key, the
errors of each operation, streams, examples."""

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from server.api.chat.schema import ChatChunk
from server.api.completions.schema import Completion
from server.api.http.anthropic_errors import is_anthropic_path
from server.api.messages.schema.events import Event as MessageEvent
from server.api.middleware.auth import OPEN_PATHS
from server.api.openapi.errors import ERROR_EXAMPLES, anthropic_example
from server.api.openapi.examples import EXAMPLES
from server.api.responses.schema.events import Event as ResponseEvent

_Json = dict[str, Any]

_SCHEME = "apiKey"
_DONE: _Json = {"const": "[DONE]"}
_CHUNKS: dict[str, tuple[str, TypeAdapter[Any], tuple[_Json, ...]]] = {
    "/v1/chat/completions": ("ChatChunk", TypeAdapter(ChatChunk), (_DONE,)),
    "/v1/completions": ("Completion", TypeAdapter(Completion), (_DONE,)),
    "/v1/responses": ("ResponseEvent", TypeAdapter(ResponseEvent), ()),
    "/v1/messages": ("MessageEvent", TypeAdapter(MessageEvent), ()),
}
"""Path → name and type of what its events carry, and what else their data may be."""
_PREFIX = "#/components/schemas/"


def describe_api(app: FastAPI, *, needs_key: bool) -> None:
    """Completes the app's document. It is made when it is first asked for.

    Args:
        needs_key: The server has API keys.
    """
    derive = app.openapi

    def openapi() -> _Json:
        if app.openapi_schema is None:
            document = derive()
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    _complete(operation, path, method, needs_key=needs_key)
                    example = EXAMPLES.get((method, path))
                    _describe_stream(document, path, example and example.stream)
            if needs_key:
                schemes: _Json = document["components"].setdefault("securitySchemes", {})
                schemes[_SCHEME] = {"type": "http", "scheme": "bearer"}
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # FastAPI's own way to extend it; its routes look it up at each request


def _complete(operation: _Json, path: str, method: str, *, needs_key: bool) -> None:
    locked = needs_key and path not in OPEN_PATHS
    if locked:
        operation["security"] = [{_SCHEME: []}]
    responses: _Json = operation["responses"]
    example = EXAMPLES.get((method, path))
    if example is not None:
        if example.requests:
            content = operation["requestBody"]["content"]["application/json"]
            content["examples"] = {name: {"value": body} for name, body in example.requests.items()}
        responses["200"]["content"]["application/json"]["example"] = example.response
    if "4XX" in responses:
        _replace_ranges(responses, path, method, locked=locked)


def _replace_ranges(responses: _Json, path: str, method: str, *, locked: bool) -> None:
    """Each status of its own, where the routes declare ranges."""
    schema = responses["4XX"]["content"]
    del responses["4XX"], responses["5XX"]
    statuses = [500]
    if locked:
        statuses.append(401)
    if method == "post" or "{" in path:
        statuses.append(404)
    if path.startswith("/v1/responses/") and method == "get":
        statuses.append(400)  # for what comes after the question mark
    if method == "post":
        statuses += [400, 413, 415, 503]
        if path.startswith("/v1/"):
            statuses.append(429)
    for status in sorted(statuses):
        description, example = ERROR_EXAMPLES[status]
        if is_anthropic_path(path):
            example = anthropic_example(status)
        content = {kind: {**media, "example": example} for kind, media in schema.items()}
        responses[str(status)] = {"description": description, "content": content}
        if status == 401:
            responses[str(status)]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
        if status in (429, 503):
            responses[str(status)]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}


def _describe_stream(document: _Json, path: str, example: str | None) -> None:
    """Adds a stream to the answers of an operation that has one.

    FastAPI can describe only streams that it frames itself. As there, `itemSchema` (OpenAPI 3.2,
    unknown to older readers) describes one event.

    Args:
        document: Its components get the chunk's schema.
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
    error = "AnthropicErrorBody" if is_anthropic_path(path) else "ErrorBody"
    item = _event((name, error), others)
    content["text/event-stream"] = {"itemSchema": item, "example": example}


def _event(names: tuple[str, ...], others: tuple[_Json, ...]) -> _Json:
    """A document, or an error, after which nothing comes."""
    documents = [{"$ref": f"{_PREFIX}{each}"} for each in names]
    document = {"contentMediaType": "application/json", "contentSchema": {"anyOf": documents}}
    return {
        "type": "object",
        "properties": {"data": {"type": "string", "anyOf": [*others, document]}},
        "required": ["data"],
    }
