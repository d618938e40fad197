"""Every error the server raises on purpose, in one tree.

    GlidecapeError
    ├── StartupError               one line on stderr, exit code 2, no traceback
    │   ├── ConfigError            a setting with a bad value
    │   ├── CheckpointError        a file that can't be read, or doesn't hold what it should
    │   └── UnsupportedModelError  an architecture, rope type, tensor type … that is not implemented
    ├── RequestError               the client's fault, answered with its own 4xx
    │   ├── InvalidRequestError    400
    │   │   ├── ContextLengthError
    │   │   ├── GrammarError
    │   │   ├── GrammarCostError
    │   │   ├── UnsupportedFieldError
    │   │   └── PreviousResponseError
    │   ├── AuthenticationError    401
    │   ├── ModelNotFoundError     404
    │   ├── NotFoundError          404
    │   ├── BodyTooLargeError      413
    │   ├── UnsupportedMediaTypeError  415
    │   └── RateLimitError         429
    ├── EngineDeadError            500: a step crashed, nothing can be served any more
    ├── ShuttingDownError          503: the server ends, others may serve
    ├── StepTimeoutError           a step did not end in time; the engine dies of it
    └── WorkerDiedError            a process of tensor parallelism ended; the engine dies of it

This module does not know HTTP frameworks: `server/api/http/errors.py` turns the tree into
responses.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

ErrorType = Literal["invalid_request_error", "requests", "server_error"]
"""The `type` of OpenAI's error body; `requests` is what a rate limit of requests has there."""

ErrorCode = Literal[
    "invalid_value",
    "invalid_json",
    "unknown_field",
    "unsupported_field",
    "context_length_exceeded",
    "previous_response_not_found",
    "invalid_api_key",
    "model_not_found",
    "not_found",
    "method_not_allowed",
    "request_too_large",
    "unsupported_media_type",
    "rate_limit_exceeded",
    "internal_error",
    "shutting_down",
]
"""The `code` of OpenAI's error body; closed, so that clients can switch on it."""


class GlidecapeError(Exception):
    """Root of the tree; its text is meant for the user."""


class StartupError(GlidecapeError):
    """The server can't start as asked."""


class ConfigError(StartupError):
    """A setting has a bad value; names the key and the value."""

    def __init__(self, key: str, value: object, reason: str) -> None:
        super().__init__(f"{key}={value!r}: {reason}")
        self.key = key


_NAMES_SHOWN = 8
"""Of tensors; the others are counted."""


class CheckpointError(StartupError):
    """A checkpoint can't be loaded; names the file and the reason."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path

    @staticmethod
    def refuse_tensors(path: Path, problem: str, names: Iterable[str]) -> None:
        """Raises a CheckpointError that names the tensors, if there are any.

        Args:
            problem: such as "is missing".
        """
        found = list(names)
        if not found:
            return
        shown = ", ".join(found[:_NAMES_SHOWN])
        rest = f" and {len(found) - _NAMES_SHOWN} more" if len(found) > _NAMES_SHOWN else ""
        plural = "tensor" if len(found) == 1 else "tensors"
        raise CheckpointError(path, f"{problem} {len(found)} {plural}: {shown}{rest}")


class UnsupportedModelError(StartupError):
    """The checkpoint is readable but asks for something that is not implemented."""


class RequestError(GlidecapeError):
    """A request that can't be served, with what OpenAI's error body needs.

    Args:
        message: Names the field and the bad value, for a person.
        param: The offending field, `messages.0.role` for nested ones, or None.
    """

    status: ClassVar[int] = 400
    type: ClassVar[ErrorType] = "invalid_request_error"
    code: ClassVar[ErrorCode] = "invalid_value"
    headers: ClassVar[Mapping[str, str]] = {}
    """HTTP headers that are sent with the answer."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequestError(RequestError):
    """A field has a bad value."""


class ContextLengthError(InvalidRequestError):
    """Prompt and requested tokens don't fit the context."""

    code: ClassVar[ErrorCode] = "context_length_exceeded"


class GrammarError(InvalidRequestError):
    """What the answer is asked to be like can't be enforced.

    Args:
        reason: What is wrong, for a person; does not name the field.
        path: Place inside of a JSON schema: `("properties", "a", "minimum")`.
    """

    def __init__(self, reason: str, path: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.path = tuple(path)


class GrammarCostError(InvalidRequestError):
    """Following the answer's grammar takes more than a request may use; raised in mid-answer.

    Args:
        what: What it takes too much of.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the answer was given up: its grammar takes too much {what} to follow. Ambiguous rules"
            " and nested repetition, such as (a+)+, are the usual reason"
        )


class UnsupportedFieldError(InvalidRequestError):
    """A field asks for something that is not done here."""

    code: ClassVar[ErrorCode] = "unsupported_field"


class PreviousResponseError(InvalidRequestError):
    """The response to go on from is not kept here, or not for this key."""

    code: ClassVar[ErrorCode] = "previous_response_not_found"


class NotFoundError(RequestError):
    """A response or an item is not kept here, or not for this key."""

    status: ClassVar[int] = 404
    code: ClassVar[ErrorCode] = "not_found"


class ModelNotFoundError(RequestError):
    """The request names a model that is not served here."""

    status: ClassVar[int] = 404
    code: ClassVar[ErrorCode] = "model_not_found"


class AuthenticationError(RequestError):
    """The API key is missing or unknown."""

    status: ClassVar[int] = 401
    code: ClassVar[ErrorCode] = "invalid_api_key"
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}


class BodyTooLargeError(RequestError):
    """The body has more bytes than this server takes."""

    status: ClassVar[int] = 413
    code: ClassVar[ErrorCode] = "request_too_large"


class UnsupportedMediaTypeError(RequestError):
    """The body is compressed."""

    status: ClassVar[int] = 415
    code: ClassVar[ErrorCode] = "unsupported_media_type"
    headers: ClassVar[Mapping[str, str]] = {"Accept-Encoding": "identity"}


class RateLimitError(RequestError):
    """Too many requests run and wait; this one was not begun."""

    status: ClassVar[int] = 429
    type: ClassVar[ErrorType] = "requests"
    code: ClassVar[ErrorCode] = "rate_limit_exceeded"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}
    """Seconds. A place becomes free whenever any request ends; clients add their own back-off."""


class EngineDeadError(GlidecapeError):
    """A step of the engine crashed; every open and later request gets this."""


class ShuttingDownError(GlidecapeError):
    """The server ends: it takes no more requests, or had no more time for this one."""


class StepTimeoutError(GlidecapeError):
    """A step of the engine has not ended in time, and perhaps never will."""


class WorkerDiedError(GlidecapeError):
    """A process of tensor parallelism ended; names it and the reason."""
