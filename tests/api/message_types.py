"""`/v1/messages`: bodies, answers and events as Anthropic's own client types them."""

import json
from collections.abc import Sequence
from typing import Any

import httpx
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.api.harness import Json

MESSAGES = "/v1/messages"
COUNT = f"{MESSAGES}/count_tokens"

_EVENT = TypeAdapter[RawMessageStreamEvent](RawMessageStreamEvent)

WEATHER: Json = {
    "name": "weather",
    "description": "Weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
CLOCK: Json = {"name": "clock", "input_schema": {"type": "object"}}


def message_body(**fields: Any) -> Json:
    return {"max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **fields}


def tool_message(**fields: Any) -> Json:
    return message_body(**{"tools": [WEATHER, CLOCK], **fields})


def user(*blocks: Json | str) -> Json:
    return {"role": "user", "content": [text(each) for each in blocks]}


def assistant(*blocks: Json | str) -> Json:
    return {"role": "assistant", "content": [text(each) for each in blocks]}


def text(block: Json | str) -> Json:
    return {"type": "text", "text": block} if isinstance(block, str) else block


def call(call_id: str = "toolu_1", name: str = "weather", **given: Any) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def result(content: Any = "18 °C", call_id: str = "toolu_1", **fields: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def parse(document: Json) -> Message:
    """A whole answer, held against Anthropic's type to the letter."""
    return Message.model_validate(document, strict=True)


def stream_events(body: str) -> list[Json]:
    """The events of a stream, each of which has its type twice. Pings are left out."""
    assert body.endswith("\n\n")
    found: list[Json] = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        document: Json = json.loads(data.removeprefix("data: "))
        assert name == f"event: {document['type']}"
        if document["type"] == "ping":
            assert document == {"type": "ping"}
        else:
            found.append(document)
    return found


def check_order(found: Sequence[Json]) -> None:
    """Holds the events of a stream that did not fail against the documented order."""
    for document in found:
        _EVENT.validate_python(document, strict=True)
    kinds = [document["type"] for document in found]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    index = -1
    is_open = False
    for document in found[1:-2]:
        match document["type"]:
            case "content_block_start":
                assert not is_open
                index, is_open = index + 1, True
            case "content_block_delta":
                assert is_open
                assert document["delta"]["type"] in _DELTAS[_block_kind(found, index)]
            case kind:
                assert (kind, is_open) == ("content_block_stop", True)
                is_open = False
        assert document["index"] == index
    assert not is_open


_DELTAS: dict[str, dict[str, tuple[str, str]]] = {
    "text": {"text_delta": ("text", "text")},
    "thinking": {
        "thinking_delta": ("thinking", "thinking"),
        "signature_delta": ("signature", "signature"),
    },
    "tool_use": {"input_json_delta": ("input", "partial_json")},
}
"""Block → its deltas → the field that grows, and the delta's own."""


def _block_kind(found: Sequence[Json], index: int) -> str:
    starts = [each for each in found if each["type"] == "content_block_start"]
    return starts[index]["content_block"]["type"]


def streamed(found: Sequence[Json]) -> Json:
    """The message that a stream's events add up to."""
    message: Json = dict(found[0]["message"])
    blocks: list[Json] = []
    for document in found:
        match document["type"]:
            case "content_block_start":
                blocks.append(dict(document["content_block"]))
                if blocks[-1]["type"] == "tool_use":
                    blocks[-1]["input"] = ""
            case "content_block_delta":
                delta = document["delta"]
                field, name = _DELTAS[blocks[-1]["type"]][delta["type"]]
                blocks[-1][field] += delta[name]
            case "message_delta":
                message |= document["delta"] | {"usage": document["usage"]}
            case _:
                pass
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["input"] or "{}")
    return {**message, "content": blocks}


def assert_message_error(response: httpx.Response, status: int, kind: str, begin: str = "") -> str:
    """Anthropic's error shape, to the letter → the error's message."""
    assert response.status_code == status, response.text
    body: Json = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
    assert set(body["error"]) == {"type", "message"}
    assert body["error"]["type"] == kind
    message: str = body["error"]["message"]
    assert message.startswith(begin), message
    return message
