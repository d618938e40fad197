"""Examples of the OpenAPI document: for each operation requests and an answer.

`tests/api/openapi/test_openapi.py` sends the requests and parses the answers.
"""

import json
from typing import Any, Final

from server.api.openapi.example import Example
from server.api.openapi.message_examples import MESSAGE_EXAMPLES

_Json = dict[str, Any]


_MODEL = "smollm2-135m-instruct"
_HEAD: _Json = {
    "created": 1_764_000_000,
    "model": _MODEL,
    "system_fingerprint": "fp_0123456789ab",
}
_USAGE: _Json = {
    "prompt_tokens": 37,
    "completion_tokens": 8,
    "total_tokens": 45,
    "prompt_tokens_details": {"cached_tokens": 32},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
_QUESTION: Final = "What is the capital of France?"
_MESSAGES = [{"role": "user", "content": _QUESTION}]
_CARD: _Json = {
    "id": _MODEL,
    "object": "model",
    "created": 1_764_000_000,
    "owned_by": "glidecape",
    "root": _MODEL,
    "max_model_len": 8192,
}


_CHAT = Example(
    requests={
        "a question": {"messages": _MESSAGES, "max_tokens": 32},
        "a stream": {
            "messages": _MESSAGES,
            "max_tokens": 32,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        "three answers": {"messages": _MESSAGES, "max_tokens": 32, "n": 3, "seed": 7},
    },
    response={
        "id": "chatcmpl-5f0c1b",
        "object": "chat.completion",
        **_HEAD,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "The capital of France is Paris.",
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
    },
    stream=(
        'data: {"id":"chatcmpl-5f0c1b","object":"chat.completion.chunk","created":1764000000,'
        '"model":"smollm2-135m-instruct","system_fingerprint":"fp_0123456789ab","choices":[{'
        '"index":0,"delta":{"content":"The"},"logprobs":null,"finish_reason":null}]}\n\n'
        "data: [DONE]\n\n"
    ),
)

_COMPLETION = Example(
    requests={
        "a text": {"prompt": "1, 2, 3, 4,", "max_tokens": 8, "temperature": 0},
        "several prompts": {"prompt": ["Once upon a time", "In the beginning"], "max_tokens": 8},
        "logprobs of a prompt": {
            "prompt": "Paris is in France",
            "echo": True,
            "max_tokens": 0,
            "logprobs": 1,
        },
    },
    response={
        "id": "cmpl-5f0c1b",
        "object": "text_completion",
        **_HEAD,
        "choices": [{"index": 0, "text": " 5, 6, 7,", "logprobs": None, "finish_reason": "length"}],
        "usage": _USAGE,
    },
    stream=(
        'data: {"id":"cmpl-5f0c1b","object":"text_completion","created":1764000000,'
        '"model":"smollm2-135m-instruct","system_fingerprint":"fp_0123456789ab","choices":[{'
        '"index":0,"text":" 5","logprobs":null,"finish_reason":null}]}\n\n'
        "data: [DONE]\n\n"
    ),
)

_RESPONSE_ID: Final = "resp_5f0c1b"
_TEXT: _Json = {
    "type": "output_text",
    "text": "The capital of France is Paris.",
    "annotations": [],
    "logprobs": [],
}
_RESPONSE: _Json = {
    "id": _RESPONSE_ID,
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

_RESPONSE_EXAMPLES: Final[dict[tuple[str, str], Example]] = {
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
        {"id": _RESPONSE_ID, "object": "response", "deleted": True}
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

EXAMPLES: dict[tuple[str, str], Example] = {
    **_RESPONSE_EXAMPLES,
    **MESSAGE_EXAMPLES,
    ("post", "/v1/chat/completions"): _CHAT,
    ("post", "/v1/completions"): _COMPLETION,
    ("get", "/v1/models"): Example({"object": "list", "data": [_CARD]}),
    ("get", "/v1/models/{model_id}"): Example(_CARD),
    ("get", "/tokenizer_info"): Example(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": None,
            "model_max_length": 8192,
            "chat_template": "{% for message in messages %}…{% endfor %}",
        }
    ),
    ("post", "/tokenize"): Example(
        requests={
            "a text": {"prompt": "Hello, world", "return_token_strs": True},
            "a chat": {"messages": _MESSAGES},
        },
        response={
            "count": 3,
            "max_model_len": 8192,
            "tokens": [19556, 28, 905],
            "token_strs": ["Hello", ",", "Ġworld"],
        },
    ),
    ("post", "/detokenize"): Example(
        requests={"tokens": {"tokens": [19556, 28, 905]}}, response={"prompt": "Hello, world"}
    ),
    ("get", "/health"): Example({"status": "ok"}),
    ("get", "/ready"): Example({"status": "ready"}),
    ("get", "/version"): Example({"version": "0.1.0"}),
}
"""Examples by method and path."""
