"""A chat's messages → what chat templates take. Knows which roles have which fields."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from server.api.errors import shown
from server.api.schemas.chat import ChatMessage
from server.api.schemas.tools import MessageToolCall
from server.errors import InvalidRequestError
from server.text.chat_template import Message
from server.text.tool_formats import ToolFormat

_ROLES_OF = {
    "tool_calls": ("assistant",),
    "refusal": ("assistant",),
    "tool_call_id": ("tool",),
}


def template_messages(messages: Sequence[ChatMessage], form: ToolFormat) -> list[Message]:
    """Messages in transformers' conventions.

    Raises:
        InvalidRequestError: a message has a field that its role doesn't have, or lacks one; a
            tool's result belongs to no call.
    """
    function_of: dict[str, str] = {}
    """Name of the function by the id of its call."""
    return [
        _message(message, f"messages.{index}", form, function_of)
        for index, message in enumerate(messages)
    ]


def _message(
    message: ChatMessage, path: str, form: ToolFormat, function_of: dict[str, str]
) -> Message:
    _check_fields(message, path)
    # OpenAI's name for system since 2024; templates know only the old one.
    role = "system" if message.role == "developer" else message.role
    name = {} if message.name is None else {"name": message.name}
    found: Message = {"role": role, "content": _content(message), **name}
    if message.tool_calls:
        found["tool_calls"] = [_call(call, form) for call in message.tool_calls]
        function_of.update(_names(message.tool_calls))
    if message.tool_call_id is not None:
        if message.tool_call_id not in function_of:
            raise InvalidRequestError(
                f"{path}.tool_call_id: no earlier message has a call with id"
                f" {shown(message.tool_call_id)}",
                f"{path}.tool_call_id",
            )
        # Some templates show the id of a result, and some its function.
        found.setdefault("name", function_of[message.tool_call_id])
        found["tool_call_id"] = form.prompt_call_id(message.tool_call_id)
    return found


def _check_fields(message: ChatMessage, path: str) -> None:
    for field, roles in _ROLES_OF.items():
        if getattr(message, field) and message.role not in roles:
            raise InvalidRequestError(
                f"{path}.{field}: only messages of role {roles[0]!r} have it", f"{path}.{field}"
            )
    if message.role == "tool" and message.tool_call_id is None:
        raise InvalidRequestError(
            f"{path}.tool_call_id: Field required in messages of role 'tool'",
            f"{path}.tool_call_id",
        )
    if message.content is None and not message.tool_calls and message.refusal is None:
        raise InvalidRequestError(f"{path}.content: Field required", f"{path}.content")


def _content(message: ChatMessage) -> str:
    texts = [message.text, message.refusal or ""]
    return "\n".join(text for text in texts if text)


def _call(call: MessageToolCall, form: ToolFormat) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
    return {"id": form.prompt_call_id(call.id), "type": "function", "function": function}


def _arguments(text: str) -> object:
    """As templates take them: an object. What a model got wrong goes back to it as it was."""
    try:
        value = json.loads(text or "{}")
        # A lone surrogate, which JSON can escape, could not be encoded with the prompt.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _names(calls: Iterable[MessageToolCall]) -> dict[str, str]:
    return {call.id: call.function.name for call in calls}
