"""Requests of endpoints that answer as chats do → chats; errors name the endpoint's own fields."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from server.api.chat.schema import ChatRequest
from server.errors import InvalidRequestError, RequestError


def chat_of(fields: dict[str, Any]) -> ChatRequest:
    """A chat's request, of fields that were valid ones of another endpoint's.

    Raises:
        InvalidRequestError: they make longer lists than a chat can have.
    """
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        limits = first.get("ctx", {})
        if first["type"] != "too_long":
            raise
        *_, name = location = [str(step) for step in first["loc"]]
        number, most = limits["actual_length"], limits["max_length"]
        path = ".".join(location)
        reason = f"makes {number} {name}, of which at most {most} are taken"
        raise InvalidRequestError(f"{path}: {reason}", path) from None


@contextmanager
def renamed_fields(rename: Callable[[str], str]) -> Generator[None]:
    """Errors that name a field of the chat's name the endpoint's own instead.

    Args:
        rename: Path in the chat's body → path in the endpoint's.
    """
    try:
        yield
    except RequestError as error:
        if error.param is not None:
            param = rename(error.param)
            if error.message.startswith(f"{error.param}: "):
                error.message = param + error.message[len(error.param) :]
            error.param = param
        raise


def rename_beginning(param: str, names: Sequence[tuple[str, str]]) -> str:
    """A path with its beginning replaced.

    Args:
        names: Beginnings as patterns, and what they are replaced by; the first that fits counts.
    """
    for pattern, name in names:
        renamed, count = re.subn(rf"^{pattern}(?=\.|$)", name, param)
        if count:
            return renamed
    return param
