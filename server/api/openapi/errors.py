"""Errors in the OpenAPI document: an example of each status."""

from typing import Any

from server.api.http.anthropic_errors import anthropic_error

_Json = dict[str, Any]


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
            "model 'gpt-4' does not exist; 'smollm2-135m-instruct' is served",
            _BAD,
            "model_not_found",
            "model",
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
"""A description and a body for each status."""


def anthropic_example(status: int) -> _Json:
    """The body of a status in Anthropic's shape."""
    _, body = ERROR_EXAMPLES[status]
    return anthropic_error(status, body["error"]["message"], "5f0c1b").model_dump()
