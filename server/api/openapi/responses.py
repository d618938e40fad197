"""Examples of `/v1/responses` in the OpenAPI document."""

import json
from typing import Any, Final

from server.api.openapi.example import Example

_Json = dict[str, Any]

_ID: Final = "resp_5f0c1b"
_QUESTION: Final = "What is the capital of France?"
_TEXT: _Json = {
    "type": "output_text",
    "text": "The capital of France is Paris.",
    "annotations": [],
    "logprobs": [],
}
_RESPONSE: _Json = {
    "id": _ID,
    "object": "response",
    "created_at": 1_764_000_000,
    "status": "completed",
    "completed_at": 1_764_000_001,
    "background": False,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": 32,
    "frequency_penalty": 0.0,
    "max_tool_calls": None,
    "metadata": {},
    "model": "smollm2-135m-instruct",
    "output": [
        {
            "id": "msg_7a31d0",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [_TEXT],
        }
    ],
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": {
        "input_tokens": 37,
        "input_tokens_details": {"cached_tokens": 32, "cache_write_tokens": 0},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 45,
    },
    "user": None,
}
_EVENT: _Json = {"type": "response.completed", "sequence_number": 14, "response": _RESPONSE}

RESPONSE_EXAMPLES: Final[dict[tuple[str, str], Example]] = {
    ("post", "/v1/responses"): Example(
        requests={
            "a question": {"input": _QUESTION, "max_output_tokens": 32},
            "a conversation": {
                "instructions": "Be brief.",
                "input": [
                    {"role": "user", "content": _QUESTION},
                    {"role": "assistant", "content": "Paris."},
                    {"role": "user", "content": [{"type": "input_text", "text": "And of Italy?"}]},
                ],
                "store": False,
            },
            "a stream": {"input": _QUESTION, "stream": True, "max_output_tokens": 32},
        },
        response=_RESPONSE,
        stream=f"event: response.completed\ndata: {json.dumps(_EVENT)}\n\n",
    ),
    ("post", "/v1/responses/input_tokens"): Example(
        requests={"a question": {"input": _QUESTION}},
        response={"object": "response.input_tokens", "input_tokens": 37},
    ),
    ("get", "/v1/responses/{response_id}"): Example(_RESPONSE),
    ("delete", "/v1/responses/{response_id}"): Example(
        {"id": _ID, "object": "response", "deleted": True}
    ),
    ("get", "/v1/responses/{response_id}/input_items"): Example(
        {
            "object": "list",
            "data": [
                {
                    "id": "msg_1c242a",
                    "type": "message",
                    "role": "user",
                    "status": "completed",
                    "content": [{"type": "input_text", "text": _QUESTION}],
                }
            ],
            "first_id": "msg_1c242a",
            "last_id": "msg_1c242a",
            "has_more": False,
        }
    ),
}
"""By method and path."""
