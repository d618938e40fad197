"""Examples of `/v1/messages`."""

import json
from typing import Any, Final

from server.api.openapi.example import Example

_Json = dict[str, Any]

_MODEL = "smollm2-135m-instruct"
_QUESTION: Final = {"role": "user", "content": "What is the capital of France?"}
_USAGE: _Json = {
    "input_tokens": 5,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 32,
    "output_tokens": 8,
    "output_tokens_details": {"thinking_tokens": 0},
    "service_tier": "standard",
}
_TOOL: _Json = {
    "name": "weather",
    "description": "Weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
_RESULT: _Json = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "18 °C"}


def _event(kind: str, **fields: object) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"


MESSAGE_EXAMPLES: Final[dict[tuple[str, str], Example]] = {
    ("post", "/v1/messages"): Example(
        requests={
            "a question": {"model": _MODEL, "max_tokens": 32, "messages": [_QUESTION]},
            "a stream": {
                "model": _MODEL,
                "max_tokens": 32,
                "messages": [_QUESTION],
                "stream": True,
            },
            "a tool and its result": {
                "model": _MODEL,
                "max_tokens": 32,
                "system": [
                    {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
                ],
                "tools": [_TOOL],
                "messages": [
                    {"role": "user", "content": "How warm is it in Rome?"},
                    {
                        "role": "assistant",
                        "content": [
                            {
                                "type": "tool_use",
                                "id": "toolu_1",
                                "name": "weather",
                                "input": {"city": "Rome"},
                            }
                        ],
                    },
                    {"role": "user", "content": [_RESULT]},
                ],
            },
        },
        response={
            "id": "msg_5f0c1b",
            "type": "message",
            "role": "assistant",
            "model": _MODEL,
            "content": [{"type": "text", "text": "The capital of France is Paris."}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": _USAGE,
        },
        stream=(
            _event(
                "content_block_delta", index=0, delta={"type": "text_delta", "text": "The capital"}
            )
            + _event("message_stop")
        ),
    ),
    ("post", "/v1/messages/count_tokens"): Example(
        requests={"a question": {"model": _MODEL, "messages": [_QUESTION]}},
        response={"input_tokens": 37},
    ),
}
