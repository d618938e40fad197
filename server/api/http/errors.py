"""Exceptions → answers in OpenAI's shape, in one table; in Anthropic's where that is expected."""

import logging
import reprlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from server.api.http.anthropic_errors import anthropic_error, expects_anthropic
from server.api.schema.field_path import MAX_NAME, field_path
from server.api.schema.fields import UNKNOWN_TYPE
from server.errors import EngineDeadError, ErrorCode, ErrorType, RequestError, ShuttingDownError

_logger = logging.getLogger(__name__)

STATUS_CLIENT_CLOSED = 499
"""nginx's number for a client that went away; nobody receives it, but it is counted."""

_MAX_SHOWN = 80

# A wrong value can be a megabyte long, or a deep tree: `repr` itself must not be called on it.
_short_repr = reprlib.Repr()
_short_repr.maxlevel = 2
_short_repr.maxstring = _short_repr.maxlong = _MAX_SHOWN


def shown(value: object) -> str:
    """A value of the client's in a message: never longer than a line."""
    text = _short_repr.repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


class ErrorDetail(BaseModel):
    message: str
    type: ErrorType
    param: str | None
    """The field at fault, as a path: `messages.0.role`."""
    code: ErrorCode


class ErrorBody(BaseModel):
    error: ErrorDetail


# The ranges also keep FastAPI from documenting a 422: validation answers 400 here.
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request can't be served as it is"},
    "5XX": {"model": ErrorBody, "description": "The server failed"},
}
"""What routes declare for the OpenAPI document."""


class ErrorAnswer(NamedTuple):
    status: int
    body: ErrorBody
    headers: Mapping[str, str] | None = None


def _client_error(
    status: int, code: ErrorCode, message: str, param: str | None = None
) -> ErrorAnswer:
    detail = ErrorDetail(message=message, type="invalid_request_error", param=param, code=code)
    return ErrorAnswer(status, ErrorBody(error=detail))


def _server_error(message: str) -> ErrorAnswer:
    detail = ErrorDetail(message=message, type="server_error", param=None, code="internal_error")
    return ErrorAnswer(500, ErrorBody(error=detail))


_SHUTTING_DOWN = ErrorAnswer(
    503,
    ErrorBody(
        error=ErrorDetail(
            message="the server is shutting down",
            type="server_error",
            param=None,
            code="shutting_down",
        )
    ),
    # Clients try again, through a proxy with another server perhaps; not on this connection.
    {"Retry-After": "1", "Connection": "close"},
)


def _from_request_error(error: RequestError) -> ErrorAnswer:
    detail = ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code)
    return ErrorAnswer(error.status, ErrorBody(error=detail), error.headers)


def _from_http(error: HTTPException) -> ErrorAnswer:
    """Errors of the framework: no such path, wrong method, a body that can't be parsed at all."""
    codes: dict[int, ErrorCode] = {
        400: "invalid_json",
        404: "not_found",
        405: "method_not_allowed",
    }
    code = codes.get(error.status_code, "invalid_value")
    answer = _client_error(error.status_code, code, error.detail)
    return answer._replace(headers=error.headers)


def _from_validation(error: RequestValidationError) -> ErrorAnswer:
    """The first thing wrong with a body; OpenAI's shape has room for one."""
    first: Mapping[str, Any] = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = f"the body is no valid JSON: {first['ctx']['error']}"
        return _client_error(400, "invalid_json", f"{reason} at character {first['loc'][-1]}")
    if first["type"] == "missing" and first["loc"] == ("body",):
        return _client_error(400, "invalid_json", "the body is empty")
    if isinstance(error.body, bytes):
        return _client_error(400, "invalid_json", "the content-type must be application/json")
    location = first["loc"]
    if first["type"] == UNKNOWN_TYPE and isinstance(first["input"], Mapping):
        location = (*location, "type")
    param = _param(location, error.body)
    codes: dict[str, ErrorCode] = {
        "extra_forbidden": "unknown_field",
        "unsupported_field": "unsupported_field",
    }
    code = codes.get(first["type"], "invalid_value")
    return _client_error(400, code, _validation_message(param, first), param)


def _param(location: Sequence[str | int], body: object) -> str | None:
    """The name of a field, or of a parameter after the path's question mark."""
    if location[0] == "query":
        return ascii(location[1])[1:-1][:MAX_NAME] if location[1:] else None
    return ".".join(field_path(location[1:], body)) or None


def _validation_message(param: str | None, error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return f"{param}: unknown field"
    what = f"{param or 'body'}: {_reason(error)}"
    if error["type"] == "missing":
        return what
    return f"{what}, got {shown(error['input'])}"


def _reason(error: Mapping[str, Any]) -> str:
    """Pydantic's own words; but it speaks of a text's length as of a list's, where something else
    of the text was checked before."""
    if not isinstance(error["input"], str) or error["type"] not in ("too_short", "too_long"):
        return error["msg"]
    context, is_short = error["ctx"], error["type"] == "too_short"
    limit = context["min_length"] if is_short else context["max_length"]
    unit = "character" if limit == 1 else "characters"
    return f"String should have at {'least' if is_short else 'most'} {limit} {unit}"


# One row per exception; a subclass is found through its parents. Handlers are typed by their own
# exception, hence Any. Server errors say nothing about their cause: that is for the log, not for
# strangers.
_TABLE: dict[type[Exception], Callable[[Any], ErrorAnswer]] = {
    RequestError: _from_request_error,
    EngineDeadError: lambda _: _server_error("the engine has stopped"),
    ShuttingDownError: lambda _: _SHUTTING_DOWN,
    RequestValidationError: _from_validation,
    HTTPException: _from_http,
    ClientDisconnect: lambda _: _client_error(
        STATUS_CLIENT_CLOSED, "invalid_value", "the client closed the connection"
    ),
    Exception: lambda _: _server_error("the server had an error while answering"),
}


_FORESEEN = tuple(cls for cls in _TABLE if cls is not Exception)


def describe(error: Exception) -> ErrorAnswer:
    """The answer to any exception."""
    row = next(cls for cls in type(error).__mro__ if cls in _TABLE)
    return _TABLE[row](error)


def error_response(error: Exception) -> Response:
    answer = describe(error)
    return _response(answer, answer.body)


def _response(answer: ErrorAnswer, body: BaseModel) -> Response:
    return JSONResponse(body.model_dump(), status_code=answer.status, headers=answer.headers)


async def _answer(request: Request, error: Exception) -> Response:
    if not isinstance(error, _FORESEEN):
        _logger.error("request %s failed", request.state.request_id, exc_info=error)
    answer = describe(error)
    if not expects_anthropic(request.scope):
        return _response(answer, answer.body)
    detail, request_id = answer.body.error, request.state.request_id
    refused = detail.param if detail.code == "unsupported_field" else None
    return _response(answer, anthropic_error(answer.status, detail.message, request_id, refused))


EXCEPTION_HANDLERS: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = (
    dict.fromkeys(_TABLE, _answer)
)
"""Handlers for everything that may raise: the routes, and the middleware in front of them."""


def install_error_handlers(app: FastAPI) -> None:
    """Installs all handlers but that of `Exception`: Starlette would answer it outside of all
    middleware, without the request's id and without CORS headers."""
    for cls, handler in EXCEPTION_HANDLERS.items():
        if cls is not Exception:
            app.add_exception_handler(cls, handler)
