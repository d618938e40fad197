"""Tools for chat templates that know none: as a system message, and past calls as plain text.

The format of calls stays the model's own (`formats.py`); the results of calls go into user
turns. A model that was never trained on calls makes little of it, except where a grammar forces it.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from server.text.tools.formats import ToolFormat
from server.text.tools.functions import FunctionCall

Message = dict[str, Any]
"""A message as chat templates take it."""

_EXAMPLE: Final = (
    FunctionCall("", "name_of_a_function", '{"name_of_an_argument": "its value"}'),
    FunctionCall("", "name_of_another", "{}"),
)


def has_calls(messages: Sequence[Message]) -> bool:
    """Whether a chat has calls or results of calls."""
    return any("tool_calls" in message or message["role"] == "tool" for message in messages)


def without_tools(
    messages: Sequence[Message], tools: Sequence[Message], form: ToolFormat
) -> list[Message]:
    """The chat in messages of system, user and assistant, whose content is text.

    Args:
        tools: JSON schemas; none for a chat that only has calls in its past.
    """
    plain: list[Message] = []
    for role, group in groupby(messages, key=lambda message: message["role"]):
        if role == "tool":
            # Together in one turn: many templates want roles to alternate.
            plain.append({"role": "user", "content": "\n".join(map(_result, group))})
        else:
            plain.extend(_with_calls_as_text(message, form) for message in group)
    return _with_instructions(plain, tools, form) if tools else plain


def _result(message: Message) -> str:
    result = {"name": message["name"], "content": message["content"]}
    return f"<tool_response>\n{_json(result)}\n</tool_response>"


def _with_calls_as_text(message: Message, form: ToolFormat) -> Message:
    if "tool_calls" not in message:
        return message
    calls = [
        FunctionCall(call["id"], call["function"]["name"], _text(call["function"]["arguments"]))
        for call in message["tool_calls"]
    ]
    texts = [text for text in (message["content"], form.write(calls)) if text]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join(texts)}


def _with_instructions(
    plain: list[Message], tools: Sequence[Message], form: ToolFormat
) -> list[Message]:
    text = instructions(tools, form)
    if plain and plain[0]["role"] == "system":
        first, *others = plain
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *others]
    return [{"role": "system", "content": text}, *plain]


def instructions(tools: Sequence[Message], form: ToolFormat) -> str:
    """What the system message says."""
    listed = "\n".join(_json(tool) for tool in tools)
    one, several = form.write(_EXAMPLE[:1]), form.write(_EXAMPLE)
    no_calls = "" if form.no_calls is None else f" or with {form.no_calls}"
    return (
        "You can call functions. These are available, with their parameters as JSON schemas:\n"
        f"<tools>\n{listed}\n</tools>\n"
        "To call one, write exactly in this form:\n"
        f"{one}\n"
        "To call several:\n"
        f"{several}\n"
        "The results are then given to you in <tool_response> and </tool_response>. If no function"
        f" is needed, answer with text{no_calls}."
    )


def _text(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else _json(arguments)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
