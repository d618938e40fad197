"""OpenAI's error body."""

from pydantic import BaseModel

from server.errors import ErrorCode, ErrorType


class ErrorDetail(BaseModel):
    message: str
    type: ErrorType
    param: str | None
    """The field at fault, as a path: `messages.0.role`."""
    code: ErrorCode


class ErrorBody(BaseModel):
    error: ErrorDetail
