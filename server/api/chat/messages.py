"""A chat's messages → what chat templates take. Knows which roles have which fields."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from server.api.chat.schema import ChatMessage, RefusalPart
from server.api.generation.json_schema import check_values, is_large
from server.api.generation.schema.tools import FunctionToolField, MessageToolCall
from server.api.generation.tools import AnyTool
from server.api.http.errors import shown
from server.errors import InvalidRequestError
from server.text.chat_template import Message
from server.text.tokenizer import LONG_TEXT
from server.text.tools.formats import ToolFormat

_ROLES_OF = {
    "tool_calls": ("assistant",),
    "refusal": ("assistant",),
    "reasoning_content": ("assistant",),
    "reasoning": ("assistant",),
    "tool_call_id": ("tool",),
}


_MESSAGE_LENGTH = 64
"""Characters that take as long as what a message, a part or a call costs beside its text."""


def is_long(
    messages: Sequence[ChatMessage],
    tools: Sequence[AnyTool] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> bool:
    """Whether writing them as a prompt takes longer than a token of another request may wait.

    Args:
        variables: Of the chat template.
    """
    if len(messages) > LONG_TEXT // _MESSAGE_LENGTH:
        return True
    functions = [tool.function for tool in tools or () if isinstance(tool, FunctionToolField)]
    shown_values = [value for each in functions for value in (each.description, each.parameters)]
    calls = [call for message in messages for call in message.tool_calls or ()]
    arguments = [call.function.arguments for call in calls]
    if is_large(variables, shown_values, arguments):
        return True
    return sum(map(_length, messages)) > LONG_TEXT


def _length(message: ChatMessage) -> int:
    calls = message.tool_calls or ()
    length = _MESSAGE_LENGTH * (1 + len(calls))
    if isinstance(message.content, list):
        length += _MESSAGE_LENGTH * len(message.content)
    return length + len(message.text) + len(message.thoughts or "")


def checked_continuation(
    messages: Sequence[ChatMessage], continues: bool | None, adds_header: bool | None
) -> bool:
    """Whether the answer goes on where the last message ends.

    Raises:
        InvalidRequestError: that message isn't the assistant's text, or a header is to follow it.
    """
    if not continues:
        return False
    field, last = "continue_final_message", messages[-1]
    if adds_header:
        raise InvalidRequestError(f"{field}: can't be combined with add_generation_prompt", field)
    if last.role != "assistant" or last.tool_calls or not last.text:
        place = f"messages.{len(messages) - 1}"
        raise InvalidRequestError(
            f"{field}: needs a text of role 'assistant' in the last message, {place}", field
        )
    return True


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
    if message.thoughts:
        found["reasoning_content"] = message.thoughts
    if message.tool_calls:
        calls = enumerate(message.tool_calls)
        found["tool_calls"] = [_call(call, f"{path}.tool_calls.{i}", form) for i, call in calls]
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
    _check_content(message, f"{path}.content")


def _check_content(message: ChatMessage, path: str) -> None:
    if message.role == "assistant":
        return
    # Null is a content that says nothing. None at all is a mistake, but not in an answer that comes
    # back without its nulls.
    if "content" not in message.model_fields_set:
        raise InvalidRequestError(f"{path}: Field required", path)
    parts = message.content if isinstance(message.content, list) else ()
    for index, part in enumerate(parts):
        if isinstance(part, RefusalPart):
            place = f"{path}.{index}.type"
            reason = "only messages of role 'assistant' have parts of type 'refusal'"
            raise InvalidRequestError(f"{place}: {reason}", place)


def _content(message: ChatMessage) -> str:
    texts = [message.text, message.refusal or ""]
    return "\n".join(text for text in texts if text)


def _call(call: MessageToolCall, path: str, form: ToolFormat) -> dict[str, Any]:
    arguments = _arguments(call.function.arguments, f"{path}.function.arguments")
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": form.prompt_call_id(call.id), "type": "function", "function": function}


def _arguments(given: str | dict[str, Any], path: str) -> object:
    """A call's arguments as templates take them: an object. Text that is no JSON object, because a
    model made a mistake, stays as it is."""
    if isinstance(given, dict):
        check_values(given, path)
        return given
    return _read_arguments(given)


def _read_arguments(text: str) -> object:
    try:
        value = json.loads(text or "{}")
        # A lone surrogate, which JSON can escape, could not be encoded with the prompt.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _names(calls: Iterable[MessageToolCall]) -> dict[str, str]:
    return {call.id: call.function.name for call in calls}
