"""Errors in Anthropic's shape: for its endpoints, and for its clients wherever they ask."""

from typing import Any, Final, Literal

from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.types import Scope

VERSION_HEADER: Final = "anthropic-version"
"""Anthropic's clients send it with every request; any version will do."""

_PATH: Final = "/v1/messages"

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


class AnthropicErrorDetail(BaseModel):
    type: AnthropicErrorType
    message: str
    """Begins with the field at fault, if there is one."""


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
    """Whether a request's answer is to be one of Anthropic's."""
    return is_anthropic_path(scope["path"]) or VERSION_HEADER in Headers(scope=scope)


def is_anthropic_path(path: str) -> bool:
    return path == _PATH or path.startswith(f"{_PATH}/")


def anthropic_error(status: int, message: str, request_id: str) -> AnthropicErrorBody:
    """The body of an answer with an error status."""
    other: AnthropicErrorType = "api_error" if status >= 500 else "invalid_request_error"
    detail = AnthropicErrorDetail(type=_TYPES.get(status, other), message=message)
    return AnthropicErrorBody(error=detail, request_id=request_id)
