"""Errors in Anthropic's shape: for its endpoints, and for its clients wherever they ask."""

from typing import Any, Final, Literal

from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.types import Scope

from server.api.schema.fields import Omittable

VERSION_HEADER: Final = "anthropic-version"
"""Anthropic's clients send it with every request; any version will do."""

_PATH: Final = "/v1/messages"
_OPENAI_PATHS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/responses")

AnthropicErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
]

_TYPES: Final[dict[int, AnthropicErrorType]] = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ThreadRefusal(BaseModel):
    """By this Anthropic's SDK knows that a server keeps no threads, and goes on without."""

    error_code: Literal["thread_unsupported_request"] = "thread_unsupported_request"
    unsupported: list[str] = ["thread"]


class AnthropicErrorDetail(BaseModel):
    type: AnthropicErrorType
    message: str
    """Begins with the field at fault, if there is one."""
    details: Omittable[ThreadRefusal] = None


class AnthropicErrorBody(BaseModel):
    type: Literal["error"] = "error"
    error: AnthropicErrorDetail
    request_id: str


# Ranges, as in `errors.ERRORS`.
ANTHROPIC_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": AnthropicErrorBody, "description": "The request can't be served as it is"},
    "5XX": {"model": AnthropicErrorBody, "description": "The server failed"},
}
"""What routes declare for the OpenAPI document."""


def expects_anthropic(scope: Scope) -> bool:
    """Whether a request's answer is to be one of Anthropic's. What only OpenAI has is answered in
    its shape to everyone: a stream has begun in it before it fails."""
    path = scope["path"]
    if is_anthropic_path(path) or any(_is_under(path, other) for other in _OPENAI_PATHS):
        return is_anthropic_path(path)
    return VERSION_HEADER in Headers(scope=scope)


def is_anthropic_path(path: str) -> bool:
    return _is_under(path, _PATH)


def _is_under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def anthropic_error(
    status: int, message: str, request_id: str, refused: str | None = None
) -> AnthropicErrorBody:
    """The body of an answer with an error status.

    Args:
        refused: the field that asks for what is not offered, where that is the error.
    """
    other: AnthropicErrorType = "api_error" if status >= 500 else "invalid_request_error"
    detail = AnthropicErrorDetail(type=_TYPES.get(status, other), message=message)
    if refused == "thread":
        detail.details = ThreadRefusal()
    return AnthropicErrorBody(error=detail, request_id=request_id)
