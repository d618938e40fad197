"""Examples of the OpenAPI document: for each operation requests and an answer, and one of each
error. `tests/api/openapi/test_openapi.py` sends the requests and parses the answers."""

from typing import Any

from server.api.openapi.example import Example
from server.api.openapi.responses import RESPONSE_EXAMPLES

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
}
_QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
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
        "a question": {"messages": _QUESTION, "max_tokens": 32},
        "a stream": {
            "messages": _QUESTION,
            "max_tokens": 32,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        "three answers": {"messages": _QUESTION, "max_tokens": 32, "n": 3, "seed": 7},
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

EXAMPLES: dict[tuple[str, str], Example] = {
    **RESPONSE_EXAMPLES,
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
            "a chat": {"messages": _QUESTION},
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
"""By method and path."""


def _error(message: str, kind: str, code: str, param: str | None = None) -> _Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_BAD = "invalid_request_error"
ERROR_EXAMPLES: dict[int, tuple[str, _Json]] = {
    400: (
        "The body is no JSON, or a field is wrong, unknown or not supported",
        _error(
            "top_p: Input should be less than or equal to 1, got 5", _BAD, "invalid_value", "top_p"
        ),
    ),
    401: (
        "The API key is missing or not valid",
        _error("the API key is not valid here", _BAD, "invalid_api_key"),
    ),
    404: (
        "Another model is asked for than the one that is served, or what is not kept here",
        _error(
            f"model 'gpt-4' does not exist; '{_MODEL}' is served", _BAD, "model_not_found", "model"
        ),
    ),
    413: (
        "The body is too long",
        _error("the body is longer than 4194304 bytes", _BAD, "request_too_large"),
    ),
    415: (
        "The body is compressed",
        _error(
            "bodies with content-encoding 'gzip' are not read here; send it as it is",
            _BAD,
            "unsupported_media_type",
        ),
    ),
    429: (
        "Too many requests run and wait",
        _error(
            "too many requests: 1024 run and 1024 wait; try again later",
            "requests",
            "rate_limit_exceeded",
        ),
    ),
    500: (
        "The engine has died, or the server has a fault",
        _error("the engine has stopped", "server_error", "internal_error"),
    ),
    503: (
        "The server is about to end",
        _error("the server is shutting down", "server_error", "shutting_down"),
    ),
}
"""By status: a description and a body."""
